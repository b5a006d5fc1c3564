//! `WWW-Authenticate`: which credentials a registry wants (RFC 9110, section 11.6.1; distribution's `spec/auth/token.md`).
//!
//! One header may hold several challenges, separated by the same commas that separate the parameters of one:
//! `Bearer realm="https://auth.example/token",service="registry", Basic realm="x"`. A word followed by `=` is a
//! parameter, any other begins a challenge. The header comes from a stranger: it is bounded, and what cannot be read ends it.

/// Longest header that is read.
const HEADER_MAX: usize = 16 << 10;
/// More challenges or parameters than any server sends.
const COUNT_MAX: usize = 32;

/// One way to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// `basic` or `bearer`, in lowercase.
    pub scheme: String,
    /// Parameters, names in lowercase.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads the challenges of one header.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = if header.len() > HEADER_MAX { "" } else { header };
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            return challenges;
        }
        let name = word.to_ascii_lowercase();
        let count = challenges.len();
        match (after.trim_start_matches([' ', '\t']).strip_prefix('='), challenges.last_mut()) {
            (Some(value), Some(challenge)) if challenge.parameters.len() < COUNT_MAX => {
                let Some((value, after)) = parameter_value(value.trim_start_matches([' ', '\t'])) else {
                    return challenges;
                };
                challenge.parameters.push((name, value));
                rest = after;
            }
            (None, _) if count < COUNT_MAX => {
                challenges.push(Challenge { scheme: name, parameters: Vec::new() });
                rest = after;
            }
            _ => return challenges,
        }
    }
}

/// Splits a token off (RFC 9110, section 5.6.2).
fn token(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|c| !(c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c)));
    text.split_at(end.unwrap_or(text.len()))
}

/// A token or a quoted string; `None` if a quote is not closed.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Some servers do not quote addresses.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_and_their_parameters_are_told_apart() {
        let header = r#"Bearer realm="https://a.example/t?x=1,2",service=reg, scope="repository:a/b:pull,push",Basic realm="a \"b\"""#;
        let found = parse(header);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].scheme, "bearer");
        assert_eq!(found[0].get("realm"), Some("https://a.example/t?x=1,2"));
        assert_eq!(found[0].get("service"), Some("reg"));
        assert_eq!(found[0].get("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(found[1].get("realm"), Some("a \"b\""));
        assert_eq!(parse("BASIC")[0].scheme, "basic");
    }

    #[test]
    fn malformed_challenges_end_without_harm() {
        for header in ["", ",,,", "=", "Bearer realm=\"open", "Bearer realm", "\"x\"", "Negotiate abc==", "é"] {
            let _ = parse(header);
        }
        assert_eq!(parse(&"a,".repeat(20_000)), []);
        assert_eq!(parse(&"a,".repeat(5_000)).len(), COUNT_MAX);
    }
}
