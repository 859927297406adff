-- KEYS: records.  ARGV: server, then of each: floor, 'R'emove or 'E'xpire.
for index = 1, #KEYS do
  local entry = read(KEYS[index])
  local floor = ARGV[2 * index]
  end_claim(entry, 'F')
  if ARGV[2 * index + 1] == 'R' or entry.expiry <= now then
    drop_payload(entry)
  end
  if floor > entry.floor then
    entry.floor = floor
  end
  keep_floor(entry)
  write(KEYS[index], entry)
end
return 1
