//! Removing volumes that stacks left on nodes which a manager's API does not reach: what is to be done, and what of it was.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bollard::models::{Node, NodeSpecAvailabilityEnum as Availability, NodeState};
use bollard::query_parameters::ListNodesOptions;
use tokio::time::Instant;

use super::cleaner::{self, Outcome};
use super::engine::failed;
use super::leftover::Leftover;
use super::names::Names;
use super::state::Shared;
use crate::error::Result;
use crate::name::AttemptId;
use crate::orchestrator::Tidied;
use crate::orchestrator::turns::locked;

/// How many deployments are seen to at once: their names are arguments of a program.
const MOST: usize = 200;
/// How long a place that failed is left alone at first, and at most; each time it is twice as long.
const FIRST_REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(15 * 60);

/// A node, or what one deployment has there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    node: String,
    attempt: Option<AttemptId>,
}

impl Place {
    fn whole_node(&self) -> Self {
        Self { node: self.node.clone(), attempt: None }
    }
}

/// What could not be seen to.
#[derive(Debug)]
pub(super) struct Trouble {
    why: String,
    rest: Duration,
    until: Instant,
}

/// Writes down which other nodes may have volumes of a deployment whose tasks are gone: those that it is known of, and those that take tasks, as a manager
/// forgets where tasks were that moved often. One that takes none need not be waited for, unless it had some.
pub(super) async fn note(
    shared: &Shared,
    client: &bollard::Docker,
    names: &Names,
    had: &BTreeSet<String>,
) -> Result<()> {
    if shared.volume_cleaner.is_none() {
        return Ok(());
    }
    let own = client.info().await.map_err(|e| failed("asking the engine which node it is", e))?;
    let own = own.swarm.and_then(|swarm| swarm.node_id);
    let nodes = nodes(client).await?;
    let may_have = |node: &&Node| is_reachable(node) || node.id.as_ref().is_some_and(|id| had.contains(id));
    // This one's were removed already.
    let others = nodes.iter().filter(may_have).filter_map(|node| node.id.clone()).filter(|id| own.as_ref() != Some(id));
    Leftover::note(client, names, &others.collect()).await
}

/// Removes what can be removed now.
pub(super) async fn tidy(shared: &Shared) -> Result<Tidied> {
    let mut tidied = Tidied::default();
    let _turn = shared.cleaning.lock().await;
    let client = shared.engine.client().await?;
    // Whoever did this before may have been killed, or cut off.
    cleaner::remove(client, &shared.instance).await?;
    let Some(image) = &shared.volume_cleaner else { return Ok(tidied) };
    let mut leftovers = Leftover::find(client, &shared.instance).await?;
    if leftovers.is_empty() {
        return Ok(tidied);
    }
    let nodes = nodes(client).await?;
    let known: BTreeSet<_> = nodes.iter().filter_map(|node| node.id.clone()).collect();
    for leftover in &mut leftovers {
        // Nobody comes back to a node that has left the swarm.
        let left = leftover.nodes.intersection(&known).cloned().collect();
        settle(client, leftover, left, &mut tidied).await;
    }
    let reachable: BTreeMap<String, String> =
        nodes.iter().filter(|node| is_reachable(node)).filter_map(named).collect();
    let due = |leftover: &Leftover| -> Vec<Place> {
        let nodes = leftover.nodes.iter().filter(|node| reachable.contains_key(*node));
        nodes.map(|node| Place { node: node.clone(), attempt: Some(leftover.names.attempt.clone()) }).collect()
    };
    shared.forget(&leftovers.iter().flat_map(due).collect());
    leftovers.retain(|leftover| due(leftover).iter().any(|place| !shared.is_resting(place)));
    if leftovers.len() > MOST {
        // What cannot be removed is not to be all that is ever tried.
        let first = usize::from_str_radix(&AttemptId::random()?.as_str()[..4], 16).unwrap_or_default();
        let first = first % leftovers.len();
        leftovers.rotate_left(first);
        leftovers.truncate(MOST);
    }
    let wanted: Vec<_> = leftovers.iter().flat_map(due).filter(|place| !shared.is_resting(place)).collect();
    let targets: BTreeSet<&String> = wanted.iter().map(|place| &place.node).collect();
    if !targets.is_empty() {
        let others = known.iter().filter(|id| !targets.contains(id));
        let outcomes = cleaner::run(shared, client, image, &leftovers, &targets, others).await?;
        for leftover in &mut leftovers {
            for place in due(leftover) {
                if let Some(outcome) = outcomes.get(&place.node) {
                    shared.remember(place, outcome, &leftover.names);
                }
            }
            let done = |node: &String| outcomes.get(node).is_some_and(|outcome| outcome.is_done(&leftover.names));
            let left = leftover.nodes.iter().filter(|node| !done(node)).cloned().collect();
            settle(client, leftover, left, &mut tidied).await;
        }
    }
    // Of those that rest, too: what cannot be done is told until it is.
    let failed = shared.whys().into_iter().filter_map(|(node, why)| Some((reachable.get(&node)?, why)));
    let failed: BTreeSet<_> = failed.map(|(node, why)| format!("volumes on node {node}: {why}")).collect();
    tidied.failed.extend(failed);
    Ok(tidied)
}

async fn settle(client: &bollard::Docker, leftover: &mut Leftover, left: BTreeSet<String>, tidied: &mut Tidied) {
    match leftover.settle(client, left).await {
        Ok(()) if leftover.nodes.is_empty() => {
            tidied.removed.push(format!("volumes of stack {}", leftover.names.stack));
        }
        Ok(()) => {}
        // It is done once more, and finds nothing.
        Err(error) => tidied.failed.push(format!("volumes of stack {}: {error}", leftover.names.stack)),
    }
}

async fn nodes(client: &bollard::Docker) -> Result<Vec<Node>> {
    client.list_nodes(None::<ListNodesOptions>).await.map_err(|e| failed("listing nodes", e))
}

/// Returns a node's id, and what people call it.
fn named(node: &Node) -> Option<(String, String)> {
    let id = node.id.clone()?;
    let name = node.description.as_ref().and_then(|description| description.hostname.clone());
    Some((id.clone(), name.unwrap_or(id)))
}

/// Tells whether a node would be given a task.
fn is_reachable(node: &Node) -> bool {
    let state = node.status.as_ref().and_then(|status| status.state);
    let availability = node.spec.as_ref().and_then(|spec| spec.availability);
    // No other knows the socket that the cleaner wants.
    let platform = node.description.as_ref().and_then(|description| description.platform.as_ref()?.os.as_deref());
    platform.is_none_or(|os| os == "linux")
        && state == Some(NodeState::READY)
        && availability == Some(Availability::ACTIVE)
}

impl Shared {
    /// Tells whether a place where it failed is to be left alone yet.
    fn is_resting(&self, place: &Place) -> bool {
        let troubles = locked(&self.troubles);
        let rests = |place: &Place| troubles.get(place).is_some_and(|trouble| Instant::now() < trouble.until);
        rests(place) || rests(&place.whole_node())
    }

    /// Forgets what it was like where nothing is to be done any more.
    fn forget(&self, due: &BTreeSet<Place>) {
        let nodes: BTreeSet<&String> = due.iter().map(|place| &place.node).collect();
        locked(&self.troubles).retain(|place, _| match place.attempt {
            Some(_) => due.contains(place),
            None => nodes.contains(&place.node),
        });
    }

    /// Returns the nodes of places where it failed, and why.
    fn whys(&self) -> Vec<(String, String)> {
        locked(&self.troubles).iter().map(|(place, trouble)| (place.node.clone(), trouble.why.clone())).collect()
    }

    fn remember(&self, place: Place, outcome: &Outcome, names: &Names) {
        let mut troubles = locked(&self.troubles);
        let node = place.whole_node();
        let (place, why) = match outcome {
            Outcome::Failed(why) => (node, why),
            Outcome::Partly { why, .. } if !outcome.is_done(names) => {
                troubles.remove(&node);
                (place, why)
            }
            Outcome::Done | Outcome::Partly { .. } => {
                troubles.remove(&node);
                troubles.remove(&place);
                return;
            }
        };
        let now = Instant::now();
        let last = troubles.get(&place);
        // Several deployments of a node that failed are one failure.
        if last.is_some_and(|trouble| now < trouble.until) {
            return;
        }
        let rest = last.map_or(FIRST_REST, |trouble| (trouble.rest * 2).min(LONGEST_REST));
        troubles.insert(place, Trouble { why: why.clone(), rest, until: now + rest });
    }
}
