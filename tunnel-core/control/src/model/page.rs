//! Long lists, a piece at a time.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

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
    /// How many are wanted; an error for a number that is none of those that may be asked for.
    pub fn limit(&self) -> Result<usize, &'static str> {
        match self.limit {
            None => Ok(100),
            Some(limit @ 1..=1000) => Ok(limit.into()),
            Some(_) => Err("expected 1 to 1000"),
        }
    }
}

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
        let limit = |limit| PageQuery { limit, after: None }.limit();
        assert_eq!((limit(None), limit(Some(1000))), (Ok(100), Ok(1000)));
        assert!(limit(Some(0)).is_err() && limit(Some(1001)).is_err());
    }
}
