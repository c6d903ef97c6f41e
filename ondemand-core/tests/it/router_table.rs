//! `router::Table` meets the contract of `Router`.

use std::sync::Arc;

use ondemand_core::router::Table;

ondemand_core::router_conformance!(table, Arc::new(Table::new()));
