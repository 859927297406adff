-- KEYS: cache.  ARGV: run_id, fresh_epoch, channel, message, floor.
-- Voids every entry of the cache by a new epoch, raises the floor of all, and tells all nodes.
local cache = open_cache(KEYS[1], ARGV[1], ARGV[2])
cache.epoch = ARGV[2]
if ARGV[5] >= cache.floor then
  cache.floor = ARGV[5]
  if cache.floor ~= NONE then
    cache.floor_until = now + FLOOR_LIFE_MS
  end
end
write_cache(KEYS[1], ARGV[1], cache)
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
