-- KEYS: entry, cache.  ARGV: run_id, fresh_epoch, token, lease_ms, 'return' or 'discard' a value.
-- Returns what was found (V, L held by another, M miss and leased), payload, remaining ms, floor.
local cache = open_cache(KEYS[2], ARGV[1], ARGV[2])
local entry = read_entry(KEYS[1], cache.epoch)
local floor = entry.floor > cache.floor and entry.floor or cache.floor
local stands = entry.deadline > now
if entry.state == 'V' and stands and ARGV[5] == 'return' then
  return { 'V', entry.payload, entry.deadline - now, floor }
end
if entry.state == 'L' and stands then
  return { 'L', '', 0, floor }
end
entry.state, entry.token, entry.payload = 'L', ARGV[3], ''
entry.deadline = now + tonumber(ARGV[4])
write_entry(KEYS[1], cache.epoch, entry)
return { 'M', '', 0, floor }
