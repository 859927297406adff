-- ARGV[3..]: channel, body, most tags, most prefixes, longest log, most bytes of it, then sweeps: each
-- 'A'll, 'T'ag or 'P'refix, then 'R'emove or 'E'xpire, then its text.  Returns the mark.
local channel, body = ARGV[3], ARGV[4]
local tags_max, prefixes_max = tonumber(ARGV[5]), tonumber(ARGV[6])
local log_max, log_bytes_max = tonumber(ARGV[7]), tonumber(ARGV[8])
local sequence = redis.call('HINCRBY', STATE, 'sequence', 1)

local function keep_tag(member)
  redis.call('ZADD', TAGS, sequence, member)
  local over = size(TAGS) - tags_max
  if over > 0 then
    local dropped = redis.call('ZPOPMIN', TAGS, over)
    -- The last is the newest of them.
    set('forgotten', string.format('%.0f', tonumber(dropped[#dropped])))
  end
end

local function common_prefix(one, other)
  local length = 0
  while length < #one and length < #other and string.byte(one, length + 1) == string.byte(other, length + 1) do
    length = length + 1
  end
  return string.sub(one, 1, length)
end

-- Two prefixes become one that covers both, and goes as far and as late as either: more is void than
-- need be, never less.
local function keep_prefix(member)
  redis.call('ZADD', PREFIXES, sequence, member)
  while size(PREFIXES) > prefixes_max do
    local oldest = redis.call('ZPOPMIN', PREFIXES, 2)
    local one, other, score = oldest[1], oldest[3], oldest[4]
    local how = (string.sub(one, 1, 1) == 'R' or string.sub(other, 1, 1) == 'R') and 'R' or 'E'
    local shared = common_prefix(string.sub(one, 2), string.sub(other, 2))
    if shared == '' then
      local seen = tonumber(get('clear_' .. how)) or 0
      if tonumber(score) > seen then
        set('clear_' .. how, string.format('%.0f', tonumber(score)))
      end
    else
      -- By hand: ZADD knows of GT since Redis 6.2.
      local seen = tonumber(redis.call('ZSCORE', PREFIXES, how .. shared) or nil)
      if not seen or tonumber(score) > seen then
        redis.call('ZADD', PREFIXES, score, how .. shared)
      end
    end
  end
end

for index = 9, #ARGV do
  local kind, member = string.sub(ARGV[index], 1, 1), string.sub(ARGV[index], 2)
  if kind == 'A' then
    set('clear_' .. member, sequence)
  elseif kind == 'T' then
    keep_tag(member)
  else
    keep_prefix(member)
  end
end
redis.call('HSET', STATE, 'tags', size(TAGS), 'prefixes', size(PREFIXES))

redis.call('RPUSH', LOG, body)
local length = redis.call('LLEN', LOG)
if length == 1 then
  set('log_bytes', 0)
end
local bytes = redis.call('HINCRBY', STATE, 'log_bytes', #body)
-- The last stays, whatever its length: see KEEPER.
while length > 1 and (length > log_max or bytes > log_bytes_max) do
  bytes = redis.call('HINCRBY', STATE, 'log_bytes', -#redis.call('LPOP', LOG))
  length = length - 1
end

redis.call('PUBLISH', channel, frame('A', body))
return mark()
