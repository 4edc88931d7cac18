//! Tokens as text, spaced as people write them.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};
use quote::ToTokens;

/// A piece of syntax on one line, without its attributes and comments.
pub(crate) fn text(syntax: &impl ToTokens) -> String {
    let mut out = String::new();
    write(&mut out, syntax.to_token_stream());
    out
}

fn write(out: &mut String, tokens: TokenStream) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(mark) if mark.as_char() == '#' => {
                tokens.next_if(|next| matches!(next, TokenTree::Group(_)));
            }
            TokenTree::Punct(mark) => {
                let mut whole = mark.to_string();
                let mut spacing = mark.spacing();
                // `->`, `::`, `=>`, `..`; a bracket that closes generics stands alone.
                while spacing == Spacing::Joint
                    && let Some(TokenTree::Punct(next)) = tokens.peek()
                    && matches!(whole.as_str(), "-" | ":" | "=" | "." | "..")
                {
                    spacing = next.spacing();
                    whole.push(next.as_char());
                    tokens.next();
                }
                let sticks = ["::", ":", ",", ";", ".", "?", "<", ">", "!"].contains(&&*whole);
                if !sticks || out.ends_with("->") {
                    space(out);
                }
                out.push_str(&whole);
            }
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Brace => ("{ ", " }"),
                    Delimiter::None => ("", ""),
                };
                let is_of_name = |last: char| last.is_alphanumeric() || "_>".contains(last);
                let follows_name = out.ends_with(is_of_name) && !out.ends_with("->");
                if !follows_name || group.delimiter() != Delimiter::Parenthesis {
                    space(out);
                }
                let before = out.len();
                out.push_str(open);
                write(out, group.stream());
                // rustfmt breaks long lists after a last comma.
                if out.ends_with(',') {
                    out.pop();
                }
                if out.len() == before + open.len() {
                    out.truncate(before + open.trim_end().len());
                    out.push_str(close.trim_start());
                } else {
                    out.push_str(close);
                }
            }
            other => {
                space(out);
                out.push_str(&other.to_string());
            }
        }
    }
}

/// A space, unless what is there takes the next token without one.
fn space(out: &mut String) {
    let sticks = ["(", "[", "<", "&", "::", "!", "'", "$", " "];
    if !out.is_empty() && !sticks.iter().any(|end| out.ends_with(end)) {
        out.push(' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_is_spaced_as_people_write_it() {
        for written in [
            "fn a<'a, T: Into<Option<u8>> + 'a>(&'a mut self, it: &T) -> Result<(), Box<dyn Error>>",
            "fn b(self: &Arc<Self>, [a, b]: [u8; 2], call: impl Fn(u8) -> bool) -> <T as Trait>::Item",
            "fn c<T>(it: T) -> (u8, impl Iterator<Item = Row>)",
            "Vec<Vec<&'static str>>",
        ] {
            let tokens: TokenStream = written.parse().unwrap();
            assert_eq!(text(&tokens), written);
        }
        for (written, expected) in [
            ("/// What it is.\n#[must_use] fn d(a: u8,)", "fn d(a: u8)"),
            (
                "{ /// Which.\n a: u8, b: Vec<()>, }",
                "{ a: u8, b: Vec<()> }",
            ),
        ] {
            let tokens: TokenStream = written.parse().unwrap();
            assert_eq!(text(&tokens), expected);
        }
    }
}
