-- Returns: incarnation, sequence, forgotten, sequences of a clear ('R', 'E'), tags and prefixes with scores.
local cleared = { get('clear_R') or '0', get('clear_E') or '0' }
return {
  get('incarnation'), get('sequence'), get('forgotten') or '0', cleared,
  redis.call('ZRANGE', TAGS, 0, -2, 'WITHSCORES'),
  redis.call('ZRANGE', PREFIXES, 0, -2, 'WITHSCORES'),
}
