-- KEYS: cache.  ARGV: run_id, fresh_epoch, channel, message, floor.
-- Voids every entry of the cache by a new epoch, raises the floor of all to that of each tombstone
-- that goes with it, and tells all nodes.
local cache = open_cache(KEYS[1], ARGV[1], ARGV[2])
cache.epoch = ARGV[2]
cache.floor_until = math.max(cache.floor_until, cache.highest_until)
if ARGV[5] ~= NONE then
  cache.floor_until = now + FLOOR_LIFE_MS
end
for _, floor in ipairs({ cache.highest, ARGV[5] }) do
  if floor > cache.floor then
    cache.floor = floor
  end
end
write_cache(KEYS[1], ARGV[1], cache)
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
