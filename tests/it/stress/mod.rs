//! The switchover under stress: again and again under load, with whatever an operator may find in
//! its way, and with servers and pgsluice itself dying in each of its phases.

mod bench;
mod clocks;
mod copies;
mod deaths;
mod obstacles;
mod own_deaths;
mod procedures;
mod rounds;
mod succession;
