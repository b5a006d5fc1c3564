//! One file a verb: its options, and what it prints.

pub mod compare;
pub mod create;
pub mod delete;
pub mod doctor;
pub mod events;
pub mod exec;
pub mod features;
pub mod gc;
pub mod image;
pub mod inspect;
pub mod kill;
pub mod list;
pub mod login;
pub mod manual;
pub mod pause;
pub mod ps;
pub mod pull;
pub mod push;
pub mod rm;
pub mod run;
pub mod spec;
pub mod start;
pub mod state;
pub mod stats;
pub mod supervise;
pub mod update;
