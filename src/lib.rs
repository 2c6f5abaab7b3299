//! pgsluice: a PostgreSQL connection pooler that sees replication.
//!
//! A connection walks one way: **listener → session (startup, auth) → pool (gate, checkout) →
//! relay → release**. That is the data plane. The control plane (`control`) watches nodes,
//! decides, and publishes one immutable [`cluster::ClusterView`]; it commands the data plane only
//! through the pool's gate. Console and metrics are readers of the same snapshots.
//!
//! Modules are declared in layer order: a module may import from those above it in this list and
//! never from those below (`tests/tidy.rs` checks it; `docs/architecture.md` says why).

// Layer 0, vocabulary: pure, no tokio, no I/O, no clock.
pub mod civil;
pub mod config;
pub mod lsn;
pub mod wire;
// Layer 1, shared state.
pub mod cluster;
pub mod net;
// Layer 2, data plane parts.
pub mod auth;
pub mod relay;
// Layer 3, server connections and who may have one.
pub mod pool;
// Layer 4, one client from first byte to last; and, beside it, the control plane.
pub mod control;
pub mod session;
// Layer 5, readers.
pub mod admin;
// Layer 6, edge.
pub mod listener;
// Layer 7, root.
pub mod app;
