//! Long lists, a piece at a time.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::problem::Problem;

/// A piece of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct Page<T> {
    /// In the order of the list.
    pub items: Vec<T>,
    /// What `after` must be for the next piece; none after the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which piece of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// How many at most; 100 unless said otherwise.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u16>,
    /// Those that come after this one: `next` of the piece before.
    #[param(max_length = 128)]
    pub after: Option<String>,
}

impl PageQuery {
    /// How many are wanted, and after which; a problem where that may not be asked for.
    pub fn checked(self) -> Result<(usize, Option<String>), Problem> {
        let limit = limit(self.limit)?;
        // As the OpenAPI document has it: in characters.
        let is_long = |after: &String| after.chars().count() > LONGEST;
        if self.after.as_ref().is_some_and(is_long) {
            return Err(Problem::invalid_parameter(
                "after",
                "expected next of the page before",
            ));
        }
        Ok((limit, self.after))
    }
}

/// How many are wanted of a list, where `limit` says so; a problem for a number that may not be asked for.
pub(super) fn limit(limit: Option<u16>) -> Result<usize, Problem> {
    match limit {
        None => Ok(100),
        Some(limit @ 1..=1000) => Ok(limit.into()),
        Some(_) => Err(Problem::invalid_parameter("limit", "expected 1 to 1000")),
    }
}

/// 128 characters: what pages go on from is a name or a number.
const LONGEST: usize = 128;

impl<T> Page<T> {
    /// The first `limit` of what comes after, with `key` to go on from.
    pub fn of(rest: impl Iterator<Item = T>, limit: usize, key: impl Fn(&T) -> String) -> Self {
        let mut rest = rest.peekable();
        let items: Vec<T> = rest.by_ref().take(limit).collect();
        let next = rest.peek().and(items.last()).map(key);
        Self { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_everything_once() {
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let page = Page::of((1..=7).filter(|n| *n > after), 3, ToString::to_string);
            seen.extend(page.items);
            match page.next {
                Some(next) => after = next.parse().unwrap(),
                None => break,
            }
        }
        assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(Page::of(1..=3, 3, ToString::to_string).next, None);
        let query = |limit, after: &str| PageQuery {
            limit,
            after: Some(after.into()),
        };
        assert_eq!(PageQuery::default().checked(), Ok((100, None)));
        let after = "\u{e4}".repeat(128);
        assert_eq!(query(Some(1000), &after).checked(), Ok((1000, Some(after))));
        for bad in [
            query(Some(0), ""),
            query(Some(1001), ""),
            query(None, &"x".repeat(129)),
        ] {
            assert!(bad.clone().checked().is_err(), "{bad:?}");
        }
    }
}
