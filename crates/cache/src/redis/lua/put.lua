-- KEYS: records.  ARGV: server, 'B'lind or 'S'eeing, then of each: version, lifetime_ms, payload.
-- Returns of each: 1 if it was put, 0 if something newer is known, or might be.
local answers = {}
for index = 1, #KEYS do
  local entry = read(KEYS[index])
  local at = 3 * index
  local version, lifetime = ARGV[at], tonumber(ARGV[at + 1])
  answers[index] = 0
  if ARGV[2] == 'B' then
    -- Floors may have been lost: it cannot be told whether this value was overtaken.
    end_claim(entry, 'F')
    drop_payload(entry)
    if version > entry.floor then
      entry.floor = version
    end
    keep_floor(entry)
    write(KEYS[index], entry)
  elseif version < entry.floor then
    -- What is there as a fallback was overtaken by this value, whatever has overtaken that. Of a value that came after
    -- a change without a number it cannot be told whether it was.
    if entry.floor == LATEST or (not is_value(entry) and entry.expiry > now) then
      end_claim(entry, 'F')
      drop_payload(entry)
      write(KEYS[index], entry)
    end
  else
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
