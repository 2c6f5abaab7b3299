//! The switchover under stress: again and again under load, with whatever an operator may find in
//! its way, and with servers and pgsluice itself dying in each of its phases.

// mod clocks;
// mod copies;
// mod deaths;
// mod gradual;
// mod obstacles;
mod bench;
mod rounds;
