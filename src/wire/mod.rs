//! The PostgreSQL frontend/backend protocol, version 3: bytes in, values out. Pure.
//!
//! What we *speak*: the startup packets, authentication, errors and notices, and the few answers
//! that the console gives. What we only *relay*: everything else. Of a relayed message no more
//! than its header is looked at ([`frame`]), so a body of any size streams through.
//!
//! Source: PostgreSQL manual, chapter "Frontend/Backend Protocol", sections 55.2 (message flow),
//! 55.3 (SASL), 55.7 (message formats), 55.8 (error and notice fields)
//! <https://www.postgresql.org/docs/current/protocol.html>, and `backend_startup.c` for what a
//! server does with a startup packet that is wrong.

pub mod error;
pub mod frame;
pub mod message;
pub mod rows;
pub mod startup;

pub use error::{ErrorResponse, NoticeResponse, Report, Severity, SqlState};
pub use frame::{Frame, FrameError, FrameScanner, Scanned};
pub use message::{Authentication, BackendKey, MessageError, RawMessage, TxStatus};
pub use startup::{
    CancelRequest, EncryptionOffer, FirstPacket, ProtocolVersion, StartupError, StartupMessage,
};

/// Messages for a server that `postgres-protocol` writes as we need them. Startup and cancel
/// packets are our own ([`startup`]): they must carry any bytes and keys of any length.
pub mod frontend {
    pub use postgres_protocol::message::frontend::{
        password_message, query, sasl_initial_response, sasl_response, ssl_request, sync, terminate,
    };
}

/// Longest startup packet, its own four length bytes not counted (`MAX_STARTUP_PACKET_LENGTH`).
pub const MAX_STARTUP_PACKET: usize = 10_000;
/// Longest message of a client that has not proven who it is (`PG_MAX_AUTH_TOKEN_LENGTH`).
pub const MAX_AUTH_MESSAGE: usize = 65_535;
/// Longest message that we take from a server before it has let us in.
pub const MAX_LOGIN_MESSAGE: usize = 65_536;
/// Longest secret key of a cancel request (protocol 3.2).
pub const MAX_CANCEL_KEY: usize = 256;
/// Longest message that the console takes.
pub const MAX_CONSOLE_MESSAGE: usize = 65_536;

/// Message type bytes, named as in section 55.7. The same byte means different things in the two
/// directions, so there is one list for each.
pub mod tag {
    /// What a client sends.
    pub mod client {
        /// Bind.
        pub const BIND: u8 = b'B';
        /// Close.
        pub const CLOSE: u8 = b'C';
        /// `CopyData`.
        pub const COPY_DATA: u8 = b'd';
        /// `CopyDone`.
        pub const COPY_DONE: u8 = b'c';
        /// `CopyFail`.
        pub const COPY_FAIL: u8 = b'f';
        /// Describe.
        pub const DESCRIBE: u8 = b'D';
        /// Execute.
        pub const EXECUTE: u8 = b'E';
        /// Flush.
        pub const FLUSH: u8 = b'H';
        /// `FunctionCall`.
        pub const FUNCTION_CALL: u8 = b'F';
        /// Parse.
        pub const PARSE: u8 = b'P';
        /// `PasswordMessage`, `SASLInitialResponse`, `SASLResponse`, `GSSResponse`.
        pub const PASSWORD: u8 = b'p';
        /// Query.
        pub const QUERY: u8 = b'Q';
        /// Sync.
        pub const SYNC: u8 = b'S';
        /// Terminate.
        pub const TERMINATE: u8 = b'X';
    }

    /// What a server sends.
    pub mod server {
        /// Authentication requests and their success.
        pub const AUTHENTICATION: u8 = b'R';
        /// `BackendKeyData`.
        pub const BACKEND_KEY_DATA: u8 = b'K';
        /// `BindComplete`.
        pub const BIND_COMPLETE: u8 = b'2';
        /// `CloseComplete`.
        pub const CLOSE_COMPLETE: u8 = b'3';
        /// `CommandComplete`.
        pub const COMMAND_COMPLETE: u8 = b'C';
        /// `CopyInResponse`.
        pub const COPY_IN: u8 = b'G';
        /// `CopyOutResponse`.
        pub const COPY_OUT: u8 = b'H';
        /// `CopyBothResponse`.
        pub const COPY_BOTH: u8 = b'W';
        /// `CopyData`.
        pub const COPY_DATA: u8 = b'd';
        /// `CopyDone`.
        pub const COPY_DONE: u8 = b'c';
        /// `DataRow`.
        pub const DATA_ROW: u8 = b'D';
        /// `EmptyQueryResponse`.
        pub const EMPTY_QUERY: u8 = b'I';
        /// `ErrorResponse`.
        pub const ERROR: u8 = b'E';
        /// `FunctionCallResponse`.
        pub const FUNCTION_CALL: u8 = b'V';
        /// `NegotiateProtocolVersion`.
        pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
        /// `NoData`.
        pub const NO_DATA: u8 = b'n';
        /// `NoticeResponse`.
        pub const NOTICE: u8 = b'N';
        /// `NotificationResponse`.
        pub const NOTIFICATION: u8 = b'A';
        /// `ParameterDescription`.
        pub const PARAMETER_DESCRIPTION: u8 = b't';
        /// `ParameterStatus`.
        pub const PARAMETER_STATUS: u8 = b'S';
        /// `ParseComplete`.
        pub const PARSE_COMPLETE: u8 = b'1';
        /// `PortalSuspended`.
        pub const PORTAL_SUSPENDED: u8 = b's';
        /// `ReadyForQuery`.
        pub const READY_FOR_QUERY: u8 = b'Z';
        /// `RowDescription`.
        pub const ROW_DESCRIPTION: u8 = b'T';
    }
}
