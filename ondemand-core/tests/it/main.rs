//! The library against real file systems, engines, Postgres servers and sockets, a module a subject.

mod fixtures;
mod laboratory;

mod compose;
mod datasets;
mod faulty;
mod orchestrator_docker;
mod orchestrator_fake;
mod orchestrator_process;
mod orchestrator_swarm;
mod orchestrator_swarm_faults;
mod orchestrator_swarm_volumes;
mod pool;
mod proxy;
mod proxy_http2;
mod router_saved;
mod router_table;
mod store_btrfs;
mod store_copy;
mod store_fake;
