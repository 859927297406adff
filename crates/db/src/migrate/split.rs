//! Cuts a file into its statements, for migrations that must run outside a transaction: several statements sent at once
//! would share one. It knows quotes, dollar quotes, comments, parentheses and the bodies of routines in plain SQL (`BEGIN ATOMIC ..
//! END`), as psql does, and nothing else of SQL. It also names what psql alone understands. Called by `run`.

/// The statements of `sql`, without their semicolons; pieces with nothing but blanks and comments are left out.
pub(super) fn statements(sql: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut at = 0;
    let mut has_words = false;
    let mut inside = Inside::default();
    while at < sql.len() {
        let rest = &sql[at..];
        let (step, is_word) = token_length(rest);
        if rest.starts_with(';') && !inside.is_anything() {
            if has_words {
                found.push(sql[start..at].trim());
            }
            start = at + step;
            has_words = false;
            inside = Inside::default();
        } else {
            has_words |= is_word;
            inside.take(&rest[..step]);
        }
        at += step;
    }
    if has_words {
        found.push(sql[start..].trim());
    }
    found
}

/// What of `sql` is for psql and not for a server, the first if there are several: rows behind a COPY, which the server would wait for
/// without end, and commands with a backslash, which begins nothing else outside of quotes.
pub(super) fn for_psql(sql: &str) -> Option<&'static str> {
    let mut at = 0;
    let mut parentheses = 0_usize;
    // The first word of the statement, and the one before this.
    let (mut first, mut before) = ("", "");
    while at < sql.len() {
        let rest = &sql[at..];
        let (step, is_word) = token_length(rest);
        let token = &rest[..step];
        at += step;
        match token {
            "\\" => return Some("a command that begins with a backslash"),
            ";" => (first, before) = ("", ""),
            "(" => parentheses += 1,
            ")" => parentheses = parentheses.saturating_sub(1),
            _ if is_word && parentheses == 0 => {
                let is = |one: &str, other: &str| {
                    first.eq_ignore_ascii_case("copy")
                        && before.eq_ignore_ascii_case(one)
                        && token.eq_ignore_ascii_case(other)
                };
                if is("from", "stdin") {
                    return Some("COPY .. FROM STDIN");
                }
                if is("to", "stdout") {
                    return Some("COPY .. TO STDOUT");
                }
                first = if first.is_empty() { token } else { first };
                before = token;
            }
            _ => {}
        }
    }
    None
}

/// What of a statement is open, in which a semicolon does not end it.
#[derive(Debug, Default)]
struct Inside {
    parentheses: usize,
    /// `BEGIN ATOMIC`, and each `CASE` in it, up to its `END`.
    blocks: usize,
    making: Making,
}

/// What a statement makes, as far as its first words tell: `CREATE [OR REPLACE] FUNCTION`.
#[derive(Debug, Default)]
enum Making {
    #[default]
    Unknown,
    Create,
    CreateOr,
    CreateOrReplace,
    Routine,
    Other,
}

impl Making {
    fn after(self, is: impl Fn(&str) -> bool) -> Self {
        match self {
            Self::Unknown if is("create") => Self::Create,
            Self::Create if is("or") => Self::CreateOr,
            Self::CreateOr if is("replace") => Self::CreateOrReplace,
            Self::Create | Self::CreateOrReplace if is("function") || is("procedure") => Self::Routine,
            Self::Routine => Self::Routine,
            _ => Self::Other,
        }
    }
}

impl Inside {
    fn is_anything(&self) -> bool {
        self.parentheses > 0 || self.blocks > 0
    }

    fn take(&mut self, token: &str) {
        let is = |word: &str| token.eq_ignore_ascii_case(word);
        match token {
            "(" => self.parentheses += 1,
            ")" => self.parentheses = self.parentheses.saturating_sub(1),
            _ if self.parentheses == 0 && token.starts_with(is_word_character) => {
                self.making = std::mem::take(&mut self.making).after(is);
                match self.blocks {
                    0 => self.blocks = usize::from(matches!(self.making, Making::Routine) && is("begin")),
                    _ if is("begin") || is("case") => self.blocks += 1,
                    _ if is("end") => self.blocks -= 1,
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// The length in bytes of what stands first, and whether it belongs to a statement.
fn token_length(rest: &str) -> (usize, bool) {
    let Some(first) = rest.chars().next() else { return (0, false) };
    match first {
        '-' if rest.starts_with("--") => (rest.find('\n').map_or(rest.len(), |end| end + 1), false),
        '/' if rest.starts_with("/*") => (block_comment_length(rest), false),
        '\'' | '"' => (quoted_length(rest, first), true),
        '$' => (dollar_quoted_length(rest).unwrap_or(1), true),
        // A word in one step, so that the dollar in `a$b$` opens no quote; E'..' takes backslashes.
        'e' | 'E' if rest[1..].starts_with('\'') => (1 + escaped_length(&rest[1..]), true),
        _ if is_word_character(first) => {
            (rest.find(|c| !is_word_character(c) && c != '$').unwrap_or(rest.len()), true)
        }
        _ => (first.len_utf8(), !first.is_whitespace() && first != ';'),
    }
}

fn is_word_character(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

// A doubled quote reads as two quoted pieces in a row, which comes to the same.
fn quoted_length(rest: &str, quote: char) -> usize {
    rest[1..].find(quote).map_or(rest.len(), |end| end + 2)
}

fn escaped_length(rest: &str) -> usize {
    let mut escaped = true;
    for (index, character) in rest.char_indices() {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == '\'' {
            return index + 1;
        }
    }
    rest.len()
}

fn dollar_quoted_length(rest: &str) -> Option<usize> {
    let tag_end = rest[1..].find(|c| !is_word_character(c))? + 1;
    let is_tag = rest[tag_end..].starts_with('$') && !rest[1..].starts_with(|c: char| c.is_ascii_digit());
    let tag = is_tag.then(|| &rest[..=tag_end])?;
    let body = &rest[tag.len()..];
    Some(body.find(tag).map_or(rest.len(), |end| end + 2 * tag.len()))
}

// Comments nest in Postgres.
fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest[at..];
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_cut_only_between_statements() {
        let table: [(&str, &[&str]); 20] = [
            ("", &[]),
            ("SELECT 1", &["SELECT 1"]),
            ("SELECT 1;", &["SELECT 1"]),
            ("SELECT 1; ; SELECT 2;\n", &["SELECT 1", "SELECT 2"]),
            ("-- no-transaction\n;SELECT 1", &["SELECT 1"]),
            ("-- only; a comment", &[]),
            ("SELECT ';', \";\" ; SELECT 2", &["SELECT ';', \";\"", "SELECT 2"]),
            ("SELECT 'it''s; fine'; SELECT 2", &["SELECT 'it''s; fine'", "SELECT 2"]),
            ("SELECT E'\\';'; SELECT 2", &["SELECT E'\\';'", "SELECT 2"]),
            ("DO $$ BEGIN x; END $$; SELECT 2", &["DO $$ BEGIN x; END $$", "SELECT 2"]),
            ("DO $a$ $b$; $$ $a$; SELECT 2", &["DO $a$ $b$; $$ $a$", "SELECT 2"]),
            ("SELECT a$b$; SELECT $1; SELECT 3", &["SELECT a$b$", "SELECT $1", "SELECT 3"]),
            ("/* ; /* ; */ ; */ SELECT 1; /* x */", &["/* ; /* ; */ ; */ SELECT 1"]),
            (
                "CREATE RULE r AS ON INSERT TO t DO ALSO (INSERT INTO a VALUES (1); DELETE FROM b); SELECT 2",
                &[
                    "CREATE RULE r AS ON INSERT TO t DO ALSO (INSERT INTO a VALUES (1); DELETE FROM b)",
                    "SELECT 2",
                ],
            ),
            (
                "create or replace function f() returns int begin atomic select case 1 when 1 then 2 end; select 3; END; SELECT 2",
                &[
                    "create or replace function f() returns int begin atomic select case 1 when 1 then 2 end; select 3; END",
                    "SELECT 2",
                ],
            ),
            (
                "CREATE FUNCTION f(begin int) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$; SELECT 2",
                &["CREATE FUNCTION f(begin int) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$", "SELECT 2"],
            ),
            (
                "CREATE TABLE log (procedure text, begin timestamptz); SELECT 2",
                &["CREATE TABLE log (procedure text, begin timestamptz)", "SELECT 2"],
            ),
            ("BEGIN; SELECT 1; END", &["BEGIN", "SELECT 1", "END"]),
            (
                "CREATE TABLE begin_end (a int); SELECT 1)); SELECT 2",
                &["CREATE TABLE begin_end (a int)", "SELECT 1))", "SELECT 2"],
            ),
            ("SELECT 'é;ü'; SELECT 'ö'", &["SELECT 'é;ü'", "SELECT 'ö'"]),
        ];
        for (sql, expected) in table {
            assert_eq!(statements(sql), expected, "{sql}");
        }
    }

    #[test]
    fn what_is_for_psql_alone_is_named() {
        let [command, rows, dump] =
            ["a command that begins with a backslash", "COPY .. FROM STDIN", "COPY .. TO STDOUT"];
        for (sql, expected) in [
            ("CREATE TABLE a (x int);\n\\i other.sql\n", Some(command)),
            ("\\restrict abc\nSELECT 1", Some(command)),
            ("SELECT 1; COPY a (x, y) FROM stdin;\n1\t2\n\\.\n", Some(rows)),
            ("copy a /* all */ from -- here\n STDIN WITH (FORMAT csv)", Some(rows)),
            ("COPY (SELECT 1) TO STDOUT", Some(dump)),
            ("COPY a FROM '/tmp/stdin'", None),
            ("COPY (SELECT x FROM stdin) TO '/tmp/a'", None),
            ("SELECT x FROM stdin", None),
            ("SELECT '\\d', E'a\\'\\d', $$ \\d $$, \"\\d\" /* \\d */ -- \\d", None),
            ("DO $$ BEGIN COPY a FROM STDIN; END $$", None),
            ("", None),
        ] {
            assert_eq!(for_psql(sql), expected, "{sql}");
        }
    }

    #[test]
    fn what_is_left_open_runs_to_the_end() {
        for sql in ["SELECT 'a; b", "SELECT \"a; b", "DO $$ a; b", "SELECT 1 /* a; b", "SELECT E'a; \\"] {
            assert_eq!(statements(sql), [sql], "{sql}");
        }
    }
}
