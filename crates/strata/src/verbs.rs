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
pub mod manual;
pub mod network;
pub mod pause;
pub mod ps;
pub mod rm;
pub mod run;
pub mod spec;
pub mod start;
pub mod state;
pub mod stats;
pub mod supervise;
pub mod update;
