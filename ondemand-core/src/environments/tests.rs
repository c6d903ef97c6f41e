//! Environments over fakes: what is left when calls fail, callers go away and processes end, and what races.

mod early;
mod interrupted;
mod life;
mod model;
mod names;
mod world;

use std::sync::Arc;
use std::time::Duration;

use super::inner::{Deployed, Inner};
use super::*;
use crate::error::{Code, Error};
use crate::fakes::{ANY, Fault};
use crate::janitor::Report;
use crate::router::Route;
use world::{BYSTANDER, World, silent, wanted};
