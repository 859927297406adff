-- Shared by the scripts that move records between their states; `record.rs` has the layout.
-- ARGV[1] is the witness of this server. FLOOR_LIFE_MS is set in front.
--
-- Numbers that are compared are digits of a fixed width: Lua's own lose digits over 2^53, and text of
-- [0-9a-f] is ordered alike in every locale that the server may collate by.
local MAGIC, HEADER = 'P2', 74
local NO_TOKEN, NO_FLOOR, LATEST = string.rep('\0', 8), '0000000000000000', 'ffffffffffffffff'
local server = ARGV[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- What a key stands for now; nothing if it was never stored. Of a record that another server made
-- only the floor counts, which is never too high: a promise about the source, not about the tier.
local function read(key)
  local entry = { state = 'F', token = NO_TOKEN, deadline = 0, expiry = 0, floor = NO_FLOOR, floor_until = 0, payload = '' }
  local raw = redis.pcall('GET', key)
  if type(raw) ~= 'string' or #raw < HEADER or string.sub(raw, 1, 2) ~= MAGIC then
    return entry
  end
  local floor_until = tonumber(string.sub(raw, 62, 74)) or 0
  if floor_until > now then
    entry.floor, entry.floor_until = string.sub(raw, 46, 61), floor_until
  end
  if string.sub(raw, 4, 11) ~= server then
    return entry
  end
  local state = string.sub(raw, 3, 3)
  local deadline = tonumber(string.sub(raw, 20, 32)) or 0
  local expiry = tonumber(string.sub(raw, 33, 45)) or 0
  if (state == 'C' or state == 'A') and deadline > now then
    -- Its fallback is kept over its life: whoever loads may say that it is as good as new.
    entry.state, entry.token, entry.deadline = expiry > now and state or 'C', string.sub(raw, 12, 19), deadline
    entry.expiry, entry.payload = expiry, string.sub(raw, 75)
  elseif expiry > now then
    entry.state = (state == 'V' or state == 'A') and 'V' or 'F'
    entry.expiry, entry.payload = expiry, string.sub(raw, 75)
  end
  return entry
end

local function is_claimed(entry)
  return entry.state == 'C' or entry.state == 'A'
end

local function is_value(entry)
  return entry.state == 'V' or entry.state == 'A'
end

-- The key lives as long as anything in it counts.
local function write(key, entry)
  local last = math.max(entry.expiry, entry.floor_until)
  if is_claimed(entry) then
    last = math.max(last, entry.deadline)
  end
  if last <= now then
    redis.call('DEL', key)
    return
  end
  local times = string.format('%013.0f%013.0f', entry.deadline, entry.expiry)
  local floor = entry.floor .. string.format('%013.0f', entry.floor_until)
  redis.call('SET', key, MAGIC .. entry.state .. server .. entry.token .. times .. floor .. entry.payload,
    'PX', string.format('%.0f', last - now))
end

local function drop_payload(entry)
  entry.expiry, entry.payload = 0, ''
end

local function end_claim(entry, state)
  entry.state, entry.token, entry.deadline = state, NO_TOKEN, 0
end

-- LATEST is not kept for as long as a number was that it took the place of.
local function keep_floor(entry)
  if entry.floor == LATEST then
    entry.floor_until = now + FLOOR_LIFE_MS
  elseif entry.floor ~= NO_FLOOR then
    entry.floor_until = math.max(entry.floor_until, now + FLOOR_LIFE_MS)
  end
end
