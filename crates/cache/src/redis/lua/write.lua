-- KEYS: entry, cache.  ARGV: run_id, token, lifetime_ms (0 releases the lease), payload.
-- Returns 1 if the lease stood and was exchanged, 0 if it did not.
local cache = read_cache(KEYS[2], ARGV[1])
if not cache then
  return 0
end
local entry = read_entry(KEYS[1], cache.epoch)
if entry.state ~= 'L' or entry.token ~= ARGV[2] then
  return 0
end
local lifetime = tonumber(ARGV[3])
entry.token = NONE
if lifetime > 0 then
  entry.state, entry.payload, entry.deadline = 'V', ARGV[4], now + lifetime
else
  entry.state, entry.deadline = 'T', 0
end
write_entry(KEYS[1], cache.epoch, entry)
return 1
