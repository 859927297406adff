-- Shared by the scripts of a line, the announcements of one cache.
-- KEYS: state (hash), tags (sorted set), prefixes (sorted set), log (list).
-- ARGV[1] is the witness of this server, ARGV[2] a random incarnation to begin with if need be.
--
-- What was kept by another server, or of which a part has been evicted, is forgotten as a whole, and the
-- new incarnation says so. A sweep is kept as its way, 'R' or 'E', and its text, with its sequence as
-- the score: exact up to 2^53.
-- No key is ever without members, because a server whose slot moves takes one that is not there for one that has
-- moved: KEEPER is the last of either set and the first of the log.
local STATE, TAGS, PREFIXES, LOG = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local function get(field)
  return redis.call('HGET', STATE, field)
end

local function set(field, value)
  redis.call('HSET', STATE, field, value)
end

local function count(field)
  return tonumber(get(field)) or 0
end

local KEEPER = '-'

-- Of a set, without its keeper.
local function size(key)
  local members = redis.pcall('ZCARD', key)
  return type(members) == 'number' and members - 1 or -1
end

local function is_whole()
  if redis.call('TYPE', STATE).ok ~= 'hash' or get('server') ~= ARGV[1] then
    return false
  end
  return size(TAGS) == count('tags') and size(PREFIXES) == count('prefixes')
end

-- In its place, if it can be: where a slot moves, what is deleted is made nowhere again.
local function drop_other(key, kind)
  if redis.call('TYPE', key).ok ~= kind then
    redis.call('DEL', key)
  end
end

local function begin_set(key)
  drop_other(key, 'zset')
  redis.call('ZADD', key, '+inf', KEEPER)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', '(+inf')
end

if not is_whole() then
  drop_other(STATE, 'hash')
  redis.call('HSET', STATE, 'server', ARGV[1], 'incarnation', ARGV[2], 'sequence', '0', 'log_bytes', #KEEPER)
  redis.call('HDEL', STATE, 'forgotten', 'clear_R', 'clear_E', 'tags', 'prefixes', 'pulsed')
  begin_set(TAGS)
  begin_set(PREFIXES)
  drop_other(LOG, 'list')
  redis.call('RPUSH', LOG, KEEPER)
  redis.call('LTRIM', LOG, -1, -1)
end

local function mark()
  return { get('incarnation'), get('sequence') }
end

local function frame(kind, body)
  return 'P2' .. kind .. get('incarnation') .. string.format('%016.0f', count('sequence')) .. body
end
