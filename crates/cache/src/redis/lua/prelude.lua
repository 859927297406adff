-- Shared by all scripts: the clock, and the two kinds of records. FLOOR_LIFE_MS is set before it.
--
-- The record of a cache:  run_id 40 | epoch 16 | floor 16 | floor_until 14 | highest 16 | highest_until 14
-- The record of a key:    state 1 | epoch 16 | floor 16 | floor_until 14 | deadline 14 | token 16 | payload
--
-- States: V value, L lease, T tombstone. Floors and tokens are 16 hex digits, so that comparing
-- them as text compares the numbers (Lua's own numbers lose digits over 2^53). Times are the
-- server's milliseconds, 14 digits. A record of another epoch does not exist.
--
-- The floor of a cache holds for each of its keys. The highest floor of any tombstone that may still
-- be about is kept beside it: a new epoch takes the tombstones away, and must not take their floors.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local NONE, LATEST = '0000000000000000', 'ffffffffffffffff'

local function stamp(ms)
  return string.format('%014.0f', ms)
end

local function get(key)
  local record = redis.pcall('GET', key)
  return type(record) == 'string' and record or ''
end

-- A floor and its end as they stand in a record; none if it has ended.
local function read_floor(record, from)
  local ends = tonumber(string.sub(record, from + 16, from + 29)) or 0
  if ends <= now then
    return NONE, 0
  end
  return string.sub(record, from, from + 15), ends
end

-- The record of the cache as this server wrote it, or nil. A server that came back with older data,
-- or took over from another, has another run id: nothing it remembers can be trusted.
local function read_cache(key, run_id)
  local record = get(key)
  if #record ~= 116 or string.sub(record, 1, 40) ~= run_id then
    return nil
  end
  local cache = { epoch = string.sub(record, 41, 56) }
  cache.floor, cache.floor_until = read_floor(record, 57)
  cache.highest, cache.highest_until = read_floor(record, 87)
  return cache
end

local function write_cache(key, run_id, cache)
  local floors = cache.floor .. stamp(cache.floor_until) .. cache.highest .. stamp(cache.highest_until)
  redis.call('SET', key, run_id .. cache.epoch .. floors)
  return cache
end

-- The record of the cache, begun afresh if need be. Tombstones that another server had are lost then,
-- so for their life no floor but the highest is safe.
local function open_cache(key, run_id, fresh_epoch)
  local cache = read_cache(key, run_id)
  if cache then
    return cache
  end
  cache = { epoch = fresh_epoch, floor = LATEST, floor_until = now + FLOOR_LIFE_MS }
  cache.highest, cache.highest_until = NONE, 0
  return write_cache(key, run_id, cache)
end

-- The record of a key in this epoch; an empty one if there is none.
local function read_entry(key, epoch)
  local record = get(key)
  if #record < 77 or string.sub(record, 2, 17) ~= epoch then
    return { state = '', floor = NONE, floor_until = 0, deadline = 0, token = NONE, payload = '' }
  end
  local floor, floor_until = read_floor(record, 18)
  return {
    state = string.sub(record, 1, 1),
    floor = floor,
    floor_until = floor_until,
    deadline = tonumber(string.sub(record, 48, 61)) or 0,
    token = string.sub(record, 62, 77),
    payload = string.sub(record, 78),
  }
end

-- The key lives as long as its state or its floor, whichever is longer.
local function write_entry(key, epoch, entry)
  local life = math.max(entry.deadline, entry.floor_until) - now
  if life <= 0 then
    redis.call('DEL', key)
    return
  end
  local header = entry.state .. epoch .. entry.floor .. stamp(entry.floor_until) .. stamp(entry.deadline)
  redis.call('SET', key, header .. entry.token .. entry.payload, 'PX', string.format('%.0f', life))
end
