-- KEYS: records.  ARGV: server, then of each: token, 'V'alue 'E'xtend 'R'elease or 'O'utdate, lifetime_ms, payload.
-- Returns of each: 1 if the claim stood and was exchanged, 0 if it did not.
local answers = {}
for index = 1, #KEYS do
  local entry = read(KEYS[index])
  local at = 4 * index - 2
  local how, lifetime = ARGV[at + 1], tonumber(ARGV[at + 2])
  local stands = is_claimed(entry) and entry.token == ARGV[at]
  answers[index] = 0
  if stands then
    -- Nothing to extend: the claim ends all the same.
    if how ~= 'E' or entry.expiry > 0 then
      answers[index] = 1
    end
    if how == 'V' then
      entry.payload, entry.expiry = ARGV[at + 3], now + lifetime
    elseif how == 'E' and entry.expiry > 0 then
      entry.expiry = now + lifetime
    end
    if entry.expiry <= now then
      drop_payload(entry)
    end
    local stays = how == 'R' and entry.state == 'A'
    end_claim(entry, (how == 'V' or how == 'E' or stays) and entry.expiry > 0 and 'V' or 'F')
    write(KEYS[index], entry)
  end
end
return answers
