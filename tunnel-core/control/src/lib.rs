//! What Adit's HTTP APIs stand on: the relay's admin API, the client's local one, and the program that drives both.
//!
//! | room | what |
//! |---|---|
//! | [`problem`] | errors as RFC 9457 has them |
//! | [`extract`] | what is read of a request: body, path, query, preconditions; what cannot be read is a problem |
//! | [`access`] | tokens, roles, sessions of a browser, and how often each may ask |
//! | [`listen`], [`tls`] | where requests come in: TCP or a Unix socket, with TLS from files |
//! | [`server`] | routes become a service that is bounded in every direction and that writes down each change |
//! | [`desired`] | what an operator wants, and the steps to it (pure) |
//! | [`events`] | what happens, as server-sent events that can be resumed |
//! | [`model`] | what the APIs speak of, as types of both sides |
//! | [`prometheus`] | counters as text |
//! | [`client`] | the other side: a typed client |
//!
//! A program brings its routes, its [tokens](access::Tokens) and its [audit log](server::Audit):
//!
//! ```
//! use std::sync::Arc;
//! use adit_control::{access::{Access, TokenRecord}, listen::Listener, server::{LogAudit, Server}};
//! use tokio_util::sync::CancellationToken;
//! use utoipa_axum::{router::OpenApiRouter, routes};
//!
//! /// What time it is.
//! #[utoipa::path(get, path = "/api/answer", responses((status = 200, body = u32)))]
//! async fn answer() -> axum::Json<u32> {
//!     axum::Json(42)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let nobody: Arc<[TokenRecord]> = Arc::new([]);
//! let server = Server::new("Example", Access::new(Arc::new(nobody)), Arc::new(LogAudit))
//!     .api(OpenApiRouter::new().routes(routes!(answer)));
//! let stop = CancellationToken::new();
//! let listener = Listener::bind(&"127.0.0.1:0".parse()?, None)?;
//! # stop.cancel();
//! server.serve(listener, stop).await;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod access;
pub mod client;
pub mod desired;
pub mod events;
pub mod extract;
pub mod listen;
pub mod model;
pub mod problem;
pub mod prometheus;
pub mod server;
pub mod tls;
