//! From a request to who asks: its token or its cookie, and whether it may ask yet.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hyper::{
    HeaderMap, Method, Uri,
    header::{AUTHORIZATION, COOKIE, HOST, HeaderValue, ORIGIN},
    http::{request::Parts, uri::Authority},
};

use super::{
    caller::{Caller, Peer},
    session::{LONGEST, Sessions},
    throttle::Throttle,
    token::{Role, Secret, SecretError, TokenDigest, Tokens, find},
};
use crate::problem::{Kind, Problem};

/// How often may be asked, and after how much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Allowance {
    /// So many requests a second for each token.
    pub per_token: NonZeroU32,
    /// So many a second for each address that brings no valid token.
    pub per_address: NonZeroU32,
}

impl Default for Allowance {
    /// A dashboard asks some ten times a second; a program that manages a thousand instances, some fifty.
    fn default() -> Self {
        Self {
            per_token: NonZeroU32::MIN.saturating_add(99),
            per_address: NonZeroU32::MIN.saturating_add(19),
        }
    }
}

/// Decides who asks, and how often.
pub struct Access {
    tokens: Arc<dyn Tokens>,
    sessions: Sessions,
    allow_query_token: bool,
    /// Names under which a browser may reach this service.
    hosts: Vec<Box<str>>,
    by_token: Throttle<TokenDigest>,
    by_address: Throttle<Option<IpAddr>>,
    failures: Throttle<Option<IpAddr>>,
    told: Mutex<Told>,
}

/// When an address was last remarked in the log for wrong tokens.
#[derive(Debug, Default)]
struct Told(HashMap<Option<IpAddr>, Instant>);

impl Access {
    /// For the holders of these tokens.
    pub fn new(tokens: Arc<dyn Tokens>) -> Self {
        Self {
            tokens,
            sessions: Sessions::default(),
            allow_query_token: false,
            hosts: Vec::new(),
            by_token: per_second(Allowance::default().per_token),
            by_address: per_second(Allowance::default().per_address),
            failures: Throttle::new(FAILURE_PERIOD, FAILURE_BURST, KEYS),
            told: Mutex::default(),
        }
    }

    /// Also takes a token from the query, `?token=adit_...`. It then stands in histories, logs and referrers.
    #[must_use]
    pub const fn allow_query_token(mut self, allow: bool) -> Self {
        self.allow_query_token = allow;
        self
    }

    /// Lets browsers come by these names, beside `localhost` and addresses.
    #[must_use]
    pub fn hosts(mut self, hosts: impl IntoIterator<Item = impl Into<Box<str>>>) -> Self {
        self.hosts = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// Replaces how often may be asked.
    #[must_use]
    pub fn allowance(mut self, allowance: Allowance) -> Self {
        self.by_token = per_second(allowance.per_token);
        self.by_address = per_second(allowance.per_address);
        self
    }

    /// Who asks; `None` where nothing is brought that could tell. Takes a token out of the query, so that no handler
    /// and no log sees it.
    pub(crate) fn identify(
        &self,
        parts: &mut Parts,
        peer: Peer,
    ) -> Result<Option<Caller>, Problem> {
        let presented = self.presented(parts)?;
        let caller = match presented {
            None => None,
            Some(Presented::Token(digest)) => self.caller(&digest, peer),
            Some(Presented::Session(session)) => {
                self.check_origin(parts)?;
                let token = self.sessions.token(&session, Instant::now());
                token.and_then(|token| self.caller(&token, peer))
            }
            Some(Presented::Nonsense) => None,
        };
        if let Some(caller) = caller {
            self.by_token.take(&caller.digest).map_err(too_many)?;
            return Ok(Some(caller));
        }
        let network = peer.network();
        self.by_address.take(&network).map_err(too_many)?;
        match presented {
            None => Ok(None),
            // A cookie that has ended is no attack: the browser logs in again.
            Some(Presented::Session(_)) => Ok(None),
            Some(_) => {
                self.failures.take(&network).map_err(too_many)?;
                self.remark(network, peer);
                let detail = "The token is not valid: it is mistyped, or it was revoked. The command tokens list shows those that are.";
                Err(Problem::new(Kind::Unauthorized, detail))
            }
        }
    }

    /// Opens a session for a caller who has brought a token: the cookie's header.
    pub(crate) fn open_session(
        &self,
        caller: &Caller,
        secure: bool,
    ) -> Result<HeaderValue, SecretError> {
        let secret = self.sessions.open(caller.digest, Instant::now())?;
        Ok(cookie(&secret.to_text(), LONGEST, secure))
    }

    /// Ends the session whose cookie the request has; the header that makes the browser forget it.
    pub(crate) fn close_session(&self, headers: &HeaderMap, secure: bool) -> HeaderValue {
        if let Some(session) = session_cookie(headers) {
            self.sessions.close(&session);
        }
        cookie("", Duration::ZERO, secure)
    }

    /// A problem unless the request was sent to this service by a name that is its own. A browser can be led to an
    /// address of this machine by any name (DNS rebinding), and says which.
    pub(crate) fn check_host(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let authority = headers.get(HOST).and_then(authority);
        let known = authority
            .as_ref()
            .is_some_and(|authority| self.is_own(authority.host()));
        if known {
            return Ok(());
        }
        let detail = "The header Host has a name that is not this service's: use its address, or add the name to hosts in [admin].";
        Err(Problem::new(Kind::Misdirected, detail))
    }

    fn is_own(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost")
            || bare.parse::<IpAddr>().is_ok()
            || self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
    }

    /// What comes with a cookie was sent by a page of this service: another site's page cannot make the browser send
    /// it (SameSite), nor say that it was here (Origin, Sec-Fetch-Site).
    fn check_origin(&self, parts: &Parts) -> Result<(), Problem> {
        self.check_host(&parts.headers)?;
        let foreign = |detail| Err(Problem::new(Kind::Forbidden, detail));
        if let Some(site) = parts.headers.get("sec-fetch-site")
            && !["same-origin", "none"].iter().any(|own| site == own)
        {
            return foreign(
                "A page of another site has sent this: only this service's own may use a session.",
            );
        }
        let host = parts.headers.get(HOST).and_then(authority);
        match parts.headers.get(ORIGIN) {
            Some(origin) => {
                let uri = origin
                    .to_str()
                    .ok()
                    .and_then(|text| text.parse::<Uri>().ok());
                if uri.and_then(|uri| uri.authority().cloned()) != host {
                    return foreign(
                        "The header Origin is not this service's: only its own pages may use a session.",
                    );
                }
                Ok(())
            }
            None if is_safe(&parts.method) => Ok(()),
            None => foreign(
                "A change in a session needs the header Origin; programs send a token instead.",
            ),
        }
    }

    fn caller(&self, digest: &TokenDigest, peer: Peer) -> Option<Caller> {
        let tokens = self.tokens.tokens();
        let token = &tokens[find(&tokens, digest)?];
        Some(Caller {
            name: token.name.clone(),
            role: token.role,
            from: peer,
            digest: *digest,
            tokens: Arc::downgrade(&self.tokens),
        })
    }

    fn presented(&self, parts: &mut Parts) -> Result<Option<Presented>, Problem> {
        let in_query = take_query_token(&mut parts.uri);
        if let Some(value) = parts.headers.get(AUTHORIZATION) {
            return Ok(Some(
                bearer(value).map_or(Presented::Nonsense, Presented::token),
            ));
        }
        if let Some(token) = in_query {
            if self.allow_query_token {
                return Ok(Some(Presented::token(&token)));
            }
            let detail = "A token in the URL stands in histories and logs: send it in the header authorization, or set allow_query_token in [admin].";
            return Err(Problem::new(Kind::Unauthorized, detail));
        }
        Ok(session_cookie(&parts.headers).map(Presented::Session))
    }

    /// Logs a wrong token, once a minute for each network.
    fn remark(&self, network: Option<IpAddr>, peer: Peer) {
        let now = Instant::now();
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < REMARK_EACH;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.0.get(&network).is_some_and(is_recent) {
            return;
        }
        told.0.retain(|_, at| is_recent(at));
        if told.0.len() < KEYS {
            told.0.insert(network, now);
            drop(told);
            // One stable line: what watches logs bans by it.
            tracing::warn!(from = %peer, "admin log-in failed");
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

/// What a request brings to tell who asks.
#[derive(Clone, Copy)]
enum Presented {
    Token(TokenDigest),
    Session(TokenDigest),
    /// Something that is no token.
    Nonsense,
}

impl Presented {
    fn token(text: &str) -> Self {
        let secret = text.parse::<Secret>();
        secret.map_or(Self::Nonsense, |secret| Self::Token(secret.digest()))
    }
}

/// Whether a method changes nothing.
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a request may read counters: by any token, or from this machine. What a proxy brings comes from elsewhere.
pub(crate) fn may_read_metrics(caller: Option<&Caller>, peer: Peer, headers: &HeaderMap) -> bool {
    let is_forwarded = FORWARDED.iter().any(|name| headers.contains_key(*name));
    caller.is_some_and(|caller| caller.role >= Role::Metrics)
        || (peer.is_loopback() && !is_forwarded)
}

fn per_second<K: std::hash::Hash + Eq + Clone>(rate: NonZeroU32) -> Throttle<K> {
    // Four seconds' worth at once: a page that loads, a program that starts.
    let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(3));
    Throttle::new(Duration::from_secs(1) / rate.get(), burst, KEYS)
}

fn too_many(wait: Duration) -> Problem {
    let detail = "Slow down: the header Retry-After says for how long.";
    Problem::new(Kind::TooManyRequests, detail).retry_after(wait)
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

fn authority(value: &HeaderValue) -> Option<Authority> {
    value.to_str().ok()?.parse().ok()
}

fn session_cookie(headers: &HeaderMap) -> Option<TokenDigest> {
    let cookies = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut pairs = cookies
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == SESSION_COOKIE)?;
    value.parse::<Secret>().ok().map(|secret| secret.digest())
}

fn cookie(value: &str, age: Duration, secure: bool) -> HeaderValue {
    let secure = if secure { "; Secure" } else { "" };
    let text = format!(
        "{SESSION_COOKIE}={value}; HttpOnly; SameSite=Strict; Path=/; Max-Age={}{secure}",
        age.as_secs()
    );
    // Letters, digits and signs that headers may have.
    let mut value = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// Takes `token` out of a query.
fn take_query_token(uri: &mut Uri) -> Option<String> {
    let query = uri.query()?;
    let is_token = |pair: &&str| pair.split('=').next() == Some("token");
    let token = query
        .split('&')
        .find(is_token)?
        .split_once('=')
        .map_or("", |(_, token)| token)
        .to_owned();
    let rest: Vec<_> = query.split('&').filter(|pair| !is_token(pair)).collect();
    let rest = if rest.is_empty() {
        uri.path().to_owned()
    } else {
        format!("{}?{}", uri.path(), rest.join("&"))
    };
    // A part of what was a path and a query is one, too.
    if let Ok(rest) = rest.parse() {
        *uri = rest;
    }
    Some(token)
}

/// What proxies say who they speak for by.
const FORWARDED: [&str; 5] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-real-ip",
];
/// What the cookie of a session is called.
const SESSION_COOKIE: &str = "adit_session";
/// Wrong tokens: ten at once, then one in six seconds for each network.
const FAILURE_BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
const FAILURE_PERIOD: Duration = Duration::from_secs(6);
/// 4,096 networks or tokens that have asked lately: 300 KiB.
const KEYS: usize = 4096;
/// How often the log says that an address brings wrong tokens.
const REMARK_EACH: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
