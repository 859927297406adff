-- ARGV[3..]: incarnation, sequence.  Returns what came after it, or nil if some of it is gone.
if ARGV[3] ~= get('incarnation') then
  return false
end
local wanted = count('sequence') - tonumber(ARGV[4])
if wanted <= 0 then
  return wanted == 0 and {} or false
end
if redis.call('LLEN', LOG) < wanted then
  return false
end
return redis.call('LRANGE', LOG, -wanted, -1)
