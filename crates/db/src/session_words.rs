//! Words in the text of a statement by which it is seen to write, or to leave something on its session. Read when the program is
//! compiled where it can be, so all of it is `const`. White space and comments separate words; what stands in literals, and what a function does
//! of which only the name stands in the text, is not told apart from the rest. Called by `statement` and `pooler`.

/// What makes tables and views that end with their session.
pub(crate) const TEMPORARY: [&str; 11] = [
    "PG_TEMP.",
    "PG_TEMP\".",
    "CREATE TEMP ",
    "CREATE TEMPORARY ",
    "LOCAL TEMP ",
    "LOCAL TEMPORARY ",
    "GLOBAL TEMP ",
    "GLOBAL TEMPORARY ",
    "OR REPLACE TEMP",
    "INTO TEMP ",
    "INTO TEMPORARY ",
];

/// The view of settings: what is written there is set for the session.
const TABLE_OF_SETTINGS: [&str; 5] = [
    "UPDATE PG_SETTINGS ",
    "UPDATE \"PG_SETTINGS\" ",
    "UPDATE ONLY PG_SETTINGS ",
    "UPDATE PG_CATALOG.PG_SETTINGS ",
    "UPDATE ONLY PG_CATALOG.PG_SETTINGS ",
];

/// True if the text begins with one of these words, in capitals.
pub(crate) const fn opens_with_any(sql: &str, verbs: &[&str]) -> bool {
    opening_verb(sql, verbs).is_some()
}

/// The one of these words, in capitals, that the text begins with.
pub(crate) const fn opening_verb<'a>(sql: &str, verbs: &[&'a str]) -> Option<&'a str> {
    let sql = sql.as_bytes();
    let mut start = skip_blank(sql, 0);
    // Empty statements before the first.
    while start < sql.len() && sql[start] == b';' {
        start = skip_blank(sql, start + 1);
    }
    let mut index = 0;
    while index < verbs.len() {
        let after = end_of(sql, start, verbs[index].as_bytes());
        if after > 0 && (after >= sql.len() || !is_of_word(sql[after])) {
            return Some(verbs[index]);
        }
        index += 1;
    }
    None
}

/// True if one of these stands in the text, in capitals here: the beginning of a word, or several words with a blank between them
/// and, where the last one is to be whole, after it.
pub(crate) const fn names_any(sql: &str, phrases: &[&str]) -> bool {
    let sql = sql.as_bytes();
    let mut start = 0;
    while start < sql.len() {
        let mut index = if begins_word(sql, start) { 0 } else { phrases.len() };
        while index < phrases.len() {
            if end_of(sql, start, phrases[index].as_bytes()) > 0 {
                return true;
            }
            index += 1;
        }
        start += 1;
    }
    false
}

/// True if a `set_config` is called for more than its transaction, its last argument not being a plain `true`, or if the view of
/// settings is written to.
pub(crate) const fn sets_for_session(sql: &str) -> bool {
    if names_any(sql, &TABLE_OF_SETTINGS) {
        return true;
    }
    let sql = sql.as_bytes();
    let mut start = 0;
    while start < sql.len() {
        if begins_word(sql, start)
            && end_of(sql, start, b"SET_CONFIG") > 0
            && !is_for_transaction(sql, start + "SET_CONFIG".len())
        {
            return true;
        }
        start += 1;
    }
    false
}

/// Of a call whose name ends before `start`.
const fn is_for_transaction(sql: &[u8], start: usize) -> bool {
    let mut at = skip_blank(sql, start);
    let (mut depth, mut last_argument, mut is_quoted) = (0, at, false);
    while at < sql.len() {
        match sql[at] {
            b'\'' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            b'(' => {
                depth += 1;
                last_argument = if depth == 1 { at + 1 } else { last_argument };
            }
            b',' if depth == 1 => last_argument = at + 1,
            b')' => {
                depth -= 1;
                if depth == 0 {
                    let word = skip_blank(sql, last_argument);
                    let after = end_of(sql, word, b"TRUE");
                    return after > 0 && skip_blank(sql, after) == at;
                }
            }
            _ => {}
        }
        at += 1;
    }
    false
}

const fn begins_word(sql: &[u8], start: usize) -> bool {
    is_of_word(sql[start]) && (start == 0 || !is_of_word(sql[start - 1]))
}

/// Where the phrase that begins at `start` ends; 0 if it does not stand there.
const fn end_of(sql: &[u8], start: usize, phrase: &[u8]) -> usize {
    let (mut at, mut index) = (start, 0);
    while index < phrase.len() {
        if phrase[index] == b' ' {
            let after = skip_blank(sql, at);
            if after == at {
                return 0;
            }
            at = after;
        } else {
            if at >= sql.len() || sql[at].to_ascii_uppercase() != phrase[index] {
                return 0;
            }
            at += 1;
        }
        index += 1;
    }
    at
}

/// The first place from `start` on that is neither white space nor in a comment.
const fn skip_blank(sql: &[u8], start: usize) -> usize {
    let mut at = start;
    while at < sql.len() {
        if sql[at].is_ascii_whitespace() {
            at += 1;
        } else if is_pair(sql, at, b"--") {
            while at < sql.len() && sql[at] != b'\n' {
                at += 1;
            }
        } else if is_pair(sql, at, b"/*") {
            at = end_of_comment(sql, at);
        } else {
            return at;
        }
    }
    at
}

/// They nest.
const fn end_of_comment(sql: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < sql.len() {
        if is_pair(sql, at, b"/*") {
            depth += 1;
            at += 2;
        } else if is_pair(sql, at, b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

const fn is_pair(sql: &[u8], at: usize, pair: &[u8; 2]) -> bool {
    at + 1 < sql.len() && sql[at] == pair[0] && sql[at + 1] == pair[1]
}

const fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_words_are_found_behind_blanks_comments_and_empty_statements() {
        for sql in [
            "SET a = 1",
            "\n\t set a = 1",
            "/* app */ SET a = 1",
            "-- a\n-- b\nSET a = 1",
            "/* a /* b */ c */SET a = 1",
            "; ;SET a = 1",
            "set",
            "set/**/a = 1",
        ] {
            assert!(opens_with_any(sql, &["BEGIN", "SET"]), "{sql}");
        }
        for sql in [
            "settle(1)",
            "SELECT 'set'",
            "/* SET */ SELECT 1",
            "/* SET a",
            "-- SET",
            "SET_CONFIG",
            "",
            "UPDATE t SET a = 1",
        ] {
            assert!(!opens_with_any(sql, &["BEGIN", "SET"]), "{sql}");
        }
    }

    #[test]
    fn phrases_are_found_over_any_white_space() {
        for sql in
            ["CREATE TEMP TABLE t ()", "create\n\ttemp\ntable t ()", "CREATE /* x */ TEMP -- y\n TABLE t ()"]
        {
            assert!(names_any(sql, &["INTO TEMP ", "CREATE TEMP "]), "{sql}");
        }
        for sql in [
            "CREATE TABLE temp ()",
            "CREATETEMP TABLE",
            "CREATE TEMPLATE",
            "RECREATE TEMP TABLE",
            "create temp",
        ] {
            assert!(!names_any(sql, &["CREATE TEMP "]), "{sql}");
        }
        assert!(names_any("SELECT pg_advisory_lock_shared(7)", &["PG_ADVISORY_LOCK"]));
        assert!(!names_any("SELECT my_pg_advisory_lock(7)", &["PG_ADVISORY_LOCK"]));
    }

    #[test]
    fn a_setting_is_the_transactions_own_only_where_a_plain_true_says_so() {
        for sql in [
            "SELECT set_config('a.b', $1, true)",
            "SELECT SET_CONFIG ( 'a', 'it''s, (false', TRUE )",
            "SELECT set_config('a', current_setting('b', false), true /* local */)",
            "SELECT set_config('a', '1', true), set_config('b', '2', true)",
            "SELECT setting FROM pg_settings FOR UPDATE",
            "UPDATE pg_settings_seen SET a = 1",
            "SELECT 1",
        ] {
            assert!(!sets_for_session(sql), "{sql}");
        }
        for sql in [
            "SELECT set_config('a', $1, false)",
            "SELECT set_config('a', $1, $2)",
            "SELECT set_config('a', 'true', not true)",
            "SELECT set_config('a', '1', true), set_config('b', '2', false)",
            "SELECT set_config('a', '1', true and false)",
            "SELECT pg_catalog.set_config('a', '1', false)",
            "SELECT set_config",
            "UPDATE pg_settings SET setting = '1' WHERE name = 'a'",
            "update only\npg_catalog.pg_settings AS s SET setting = '1'",
        ] {
            assert!(sets_for_session(sql), "{sql}");
        }
    }
}
