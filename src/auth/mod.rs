//! Who a client is, and who we are to a server: secrets, SCRAM, and the two login conversations.
//!
//! Neither conversation has a clock: the caller puts its deadline around it. Neither logs, and no
//! error carries a secret.

pub mod client;
pub mod kdf;
pub mod scram;
pub mod secret;
pub mod server;

pub use client::{AuthError, Authenticator, ClientLogin, RejectReason};
pub use kdf::{Kdf, KdfClosed};
pub use scram::{ScramError, ScramVerifier};
pub use secret::{UserList, UserListError, Verifier};
pub use server::{LoginError, ServerHello, ServerLogin};
