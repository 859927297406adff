-- KEYS: cache, entries..  ARGV: run_id, fresh_epoch, channel, message, floors..
-- Voids each entry, whatever it was, raises its floor, and tells all nodes.
local cache = open_cache(KEYS[1], ARGV[1], ARGV[2])
local floor_until = now + FLOOR_LIFE_MS
for index = 2, #KEYS do
  local entry = read_entry(KEYS[index], cache.epoch)
  local floor = ARGV[index + 3]
  if floor > cache.highest then
    cache.highest = floor
  end
  write_entry(KEYS[index], cache.epoch, {
    state = 'T',
    floor = entry.floor > floor and entry.floor or floor,
    floor_until = floor_until,
    deadline = 0,
    token = NONE,
    payload = '',
  })
end
cache.highest_until = floor_until
write_cache(KEYS[1], ARGV[1], cache)
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
