//! Services of a Docker Swarm: the contract, and what only they have to prove. `make test` starts the three nodes they need.

#![expect(clippy::expect_used, reason = "these are tests")]

mod laboratory;

use laboratory::Services;

ondemand_core::orchestrator_conformance!(Services::start());
