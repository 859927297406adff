-- KEYS: records.  ARGV: server, token, lease_ms, over ('N'othing, 'A'head, 'V'alue, 'P'oison).
-- Returns of each: 'V'alue, 'C'laimed or 'H'eld by another; floor; remaining ms of the payload; payload.
local token, lease, over = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local answers = {}
for index = 1, #KEYS do
  local entry = read(KEYS[index])
  local found = 'C'
  if is_value(entry) and over == 'N' then
    found = 'V'
  elseif is_claimed(entry) and entry.token ~= token then
    found = 'H'
  else
    if over == 'P' then
      drop_payload(entry)
    end
    entry.state = over == 'A' and is_value(entry) and 'A' or 'C'
    entry.token, entry.deadline = token, now + lease
    write(KEYS[index], entry)
  end
  local remaining = math.max(entry.expiry - now, 0)
  answers[index] = { found, entry.floor, remaining, remaining > 0 and entry.payload or '' }
end
return answers
