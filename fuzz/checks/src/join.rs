//! Join strings: any text.

use tunnel_core::join::JoinString;

/// What is read comes back from its own text; an error is short and keeps the token to itself.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    match text.parse::<JoinString>() {
        Ok(join) => {
            let shown = join.to_string();
            assert_eq!(shown.parse(), Ok(join));
            assert!(shown.len() <= text.len(), "{shown}");
        }
        Err(error) => {
            let error = error.to_string();
            // It shows up to 80 characters of what is wrong, escaped.
            assert!(error.len() < 1_000, "{error}");
            if let Some((before, token)) = text.split_once('#')
                && token.len() >= 16
                && before.contains('/')
                && !before.contains(token)
            {
                assert!(!error.contains(token), "{error}");
            }
        }
    }
}
