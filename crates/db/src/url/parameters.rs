//! What a connection URL says of TLS in libpq's words, taken out of its text before the driver reads it, which knows few of them.
//! It cuts the text where the driver does, reads no file, and leaves what it does not understand in the text, for the driver to
//! refuse. Called by `url`.

/// How the server is to be spoken to (`sslmode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    Disable,
    /// What a URL means that says nothing.
    #[default]
    Prefer,
    /// TLS with whoever has a certificate of the authorities.
    Authority,
    /// As `Authority`, for the name of the host.
    Full,
}

impl Mode {
    fn named(word: &str) -> Option<Self> {
        match word {
            "disable" => Some(Self::Disable),
            "prefer" => Some(Self::Prefer),
            "verify-ca" => Some(Self::Authority),
            // By libpq's own word the first checks nothing: a name that promises more than that is taken by its promise.
            "require" | "verify-full" => Some(Self::Full),
            _ => None,
        }
    }

    pub(crate) fn demands_tls(self) -> bool {
        matches!(self, Self::Authority | Self::Full)
    }
}

/// What was found. Of a parameter that is repeated the last one holds, as with libpq.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsParameters {
    pub(crate) mode: Mode,
    /// A path, or the word for the system's own.
    pub(crate) root_certificates: Option<String>,
    pub(crate) certificate: Option<String>,
    pub(crate) key: Option<String>,
}

pub(crate) const ROOT_CERTIFICATES: &str = "sslrootcert";
pub(crate) const CERTIFICATE: &str = "sslcert";
pub(crate) const KEY: &str = "sslkey";

impl TlsParameters {
    /// Parts the text in what the driver reads and what it does not.
    pub(super) fn take_out(text: &str) -> (String, Self) {
        let mut found = Self::default();
        let is_url = |scheme: &&str| text.starts_with(*scheme);
        let left = match ["postgres://", "postgresql://"].into_iter().find(is_url) {
            Some(scheme) => out_of_url(text, scheme.len(), &mut found),
            None => out_of_words(text, &mut found),
        };
        (left, found)
    }

    /// The first parameter that names a file.
    pub(super) fn first_file(&self) -> Option<&'static str> {
        [(ROOT_CERTIFICATES, &self.root_certificates), (CERTIFICATE, &self.certificate), (KEY, &self.key)]
            .into_iter()
            .find_map(|(parameter, value)| value.as_ref().map(|_| parameter))
    }

    /// False if it is none of these.
    fn note(&mut self, name: &str, value: String) -> bool {
        let file = match name {
            "sslmode" => {
                let Some(mode) = Mode::named(&value) else { return false };
                self.mode = mode;
                return true;
            }
            ROOT_CERTIFICATES => &mut self.root_certificates,
            CERTIFICATE => &mut self.certificate,
            KEY => &mut self.key,
            _ => return false,
        };
        // To libpq, an empty one is none.
        *file = Some(value).filter(|value| !value.is_empty());
        true
    }
}

fn out_of_url(text: &str, scheme_bytes: usize, found: &mut TlsParameters) -> String {
    // To the driver, everything before the first @ are credentials, whatever is in them.
    let location = text[scheme_bytes..].find('@').map_or(scheme_bytes, |at| scheme_bytes + at + 1);
    let Some(mark) = text[location..].find('?') else { return text.to_owned() };
    let (head, mut left) = (&text[..location + mark], &text[location + mark + 1..]);
    let mut kept = Vec::new();
    while !left.is_empty() {
        let Some(equals) = left.find('=') else {
            kept.push(left);
            break;
        };
        let end = left[equals..].find('&').map_or(left.len(), |ampersand| equals + ampersand);
        let pair = decoded(&left[..equals]).zip(decoded(&left[equals + 1..end]));
        if !pair.is_some_and(|(name, value)| found.note(&name, value)) {
            kept.push(&left[..end]);
        }
        left = left.get(end + 1..).unwrap_or_default();
    }
    if kept.is_empty() { head.to_owned() } else { format!("{head}?{}", kept.join("&")) }
}

/// Without its percent signs; a sign that encodes nothing stands for itself. None if it is no text.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.as_bytes();
    while let Some((first, rest)) = left.split_first() {
        let encoded = rest.get(..2).filter(|_| *first == b'%').and_then(hexadecimal);
        bytes.push(encoded.unwrap_or(*first));
        left = if encoded.is_some() { &rest[2..] } else { rest };
    }
    String::from_utf8(bytes).ok()
}

fn hexadecimal(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let [high, low] = digits else { return None };
    u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
}

fn out_of_words(text: &str, found: &mut TlsParameters) -> String {
    let mut kept = Vec::new();
    let mut left = text.trim_start();
    while !left.is_empty() {
        let Some((name, value, end)) = first_word(left) else {
            kept.push(left);
            break;
        };
        if !found.note(name, value) {
            kept.push(&left[..end]);
        }
        left = left[end..].trim_start();
    }
    kept.join(" ")
}

/// The first `name=value`, and where it ends. None where the driver finds none either.
fn first_word(text: &str) -> Option<(&str, String, usize)> {
    let name = &text[..text.find(|character: char| character == '=' || character.is_whitespace())?];
    let behind = text[name.len()..].trim_start().strip_prefix('=')?.trim_start();
    let start = text.len() - behind.len();
    let is_quoted = behind.starts_with('\'');
    let mut value = String::new();
    let mut characters = behind.char_indices().skip(usize::from(is_quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if is_quoted => return Some((name, value, start + at + 1)),
            _ if !is_quoted && character.is_whitespace() => return Some((name, value, start + at)),
            _ => value.push(character),
        }
    }
    // Without a last quote it has no end.
    (!is_quoted).then_some((name, value, text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, left: &str, mode: Mode, files: [Option<&str>; 3]) {
        let [root_certificates, certificate, key] = files.map(|file| file.map(str::to_owned));
        let expected = TlsParameters { mode, root_certificates, certificate, key };
        assert_eq!(TlsParameters::take_out(text), (left.to_owned(), expected), "{text}");
    }

    #[test]
    fn parameters_of_a_url_are_taken_out_wherever_they_stand() {
        let none = [None; 3];
        check("postgres://db1/x", "postgres://db1/x", Mode::Prefer, none);
        check("postgres://db1/x?sslmode=require", "postgres://db1/x", Mode::Full, none);
        check("postgresql://db1?sslmode=verify-ca", "postgresql://db1", Mode::Authority, none);
        check(
            "postgres://db1/x?port=6000&sslmode=verify-full&options=-c%20geqo%3Doff",
            "postgres://db1/x?port=6000&options=-c%20geqo%3Doff",
            Mode::Full,
            none,
        );
        check(
            "postgres://db1/x?sslrootcert=%2Fetc%2fa%20b.pem&sslcert=/c&sslkey=/k&user=pay",
            "postgres://db1/x?user=pay",
            Mode::Prefer,
            [Some("/etc/a b.pem"), Some("/c"), Some("/k")],
        );
        check("postgres://db1/x?%73slmode=dis%61ble", "postgres://db1/x", Mode::Disable, none);
    }

    #[test]
    fn parameters_in_words_are_taken_out_with_their_quotes() {
        let none = [None; 3];
        check("host=db1 user=pay", "host=db1 user=pay", Mode::Prefer, none);
        check("sslmode=verify-full", "", Mode::Full, none);
        check(" host = db1\tsslmode = 'verify-ca'  user=pay", "host = db1 user=pay", Mode::Authority, none);
        check(
            r"host=db1 sslrootcert='/a b/\'c\'\\d' sslcert=/e\ f sslkey='/k'port=6000",
            "host=db1 port=6000",
            Mode::Prefer,
            [Some(r"/a b/'c'\d"), Some("/e f"), Some("/k")],
        );
        check("sslrootcert='' sslcert= ", "", Mode::Prefer, none);
    }

    #[test]
    fn what_only_looks_like_one_stays_where_it_is() {
        let check = |text: &str| check(text, text, Mode::Prefer, [None; 3]);
        check("postgres://pay:a?sslmode=require&b@db1/x");
        check("postgres://pay:sslmode=require@db1/x");
        check("postgres://db1/x?password=sslmode%3Drequire");
        check("postgres://db1/x?password=%26sslmode=require");
        check("postgres://db1/x?options=sslmode=require");
        check("host=db1 password='a sslmode=require'");
        check(r"host=db1 password=a\ sslmode=require");
        check("host=db1 options=sslmode=require");
    }

    #[test]
    fn what_is_not_understood_is_left_to_the_driver() {
        let check = |text: &str| check(text, text, Mode::Prefer, [None; 3]);
        check("postgres://db1/x?sslmode=allow");
        check("postgres://db1/x?sslmode=Require");
        check("postgres://db1/x?sslrootcert=%FF");
        check("postgres://db1/x?user=pay&sslmode");
        check("postgres://db1/x?sslcrl=/a");
        check("host=db1 sslmode=allow");
        check("host=db1 sslmode require");
        check("host=db1 sslrootcert='/a");
        check("postgres://db1/x?user=100%&host=%4");
    }

    #[test]
    fn of_a_parameter_that_is_repeated_the_last_one_holds() {
        let files = [Some("/b"), None, None];
        let text = "postgres://db1/x?sslmode=disable&sslrootcert=/a&sslmode=verify-full&sslrootcert=/b";
        check(text, "postgres://db1/x", Mode::Full, files);
        check("sslrootcert=/a sslmode=require sslrootcert=/b sslmode=disable", "", Mode::Disable, files);
    }
}
