-- KEYS: records.  ARGV: server, then of each: version, lifetime_ms, payload.
-- Returns of each: 1 if it was put, 0 if something newer is known.
local answers = {}
for index = 1, #KEYS do
  local entry = read(KEYS[index])
  local at = 3 * index - 1
  local version, lifetime = ARGV[at], tonumber(ARGV[at + 1])
  answers[index] = 0
  if version >= entry.floor then
    answers[index] = 1
    end_claim(entry, 'V')
    entry.payload, entry.expiry = ARGV[at + 2], now + lifetime
    if entry.expiry <= now then
      drop_payload(entry)
      entry.state = 'F'
    end
    entry.floor = version
    keep_floor(entry)
    -- What was put last is remembered for as long as it is there; LATEST is no number.
    if version ~= NO_FLOOR and version ~= LATEST then
      entry.floor_until = math.max(entry.floor_until, entry.expiry)
    end
    write(KEYS[index], entry)
  end
end
return answers
