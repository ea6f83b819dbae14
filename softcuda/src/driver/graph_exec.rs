//! Graphs that can be launched: `cuGraphInstantiate*`, `cuGraphExec*`, `cuGraphLaunch`.
//!
//! Instantiating lays the nodes out in a list, those of graphs within included; launching puts them into the queue.

use std::collections::BTreeMap;

use super::{
    Driver, call,
    error::{CUresult, Result, not_built},
    ffi::Out,
    graph::{Graph, kind, of_graph},
    in_context,
    queue::{Origin, Point},
    work::Work,
};

/// `CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH`.
const AUTO_FREE: u64 = 1;

/// A graph that can be launched.
#[derive(Debug)]
pub struct Exec {
    context: usize,
    /// The graph that it was made from.
    graph: usize,
    /// Each comes after nodes before it in the list only.
    nodes: Vec<ExecNode>,
    /// For races: the lanes of its branches but the first, which is the stream's.
    lanes: Vec<usize>,
    /// Where its last launch ends: the next one comes after it.
    last: Option<Point>,
    flags: u64,
}

#[derive(Debug)]
pub struct ExecNode {
    /// Its handle in the graph.
    node: usize,
    /// What it does.
    pub work: Work,
    /// Indices of the nodes that it comes after.
    after: Vec<usize>,
    enabled: bool,
    /// The branch that it belongs to: nodes of one come one after the other.
    branch: usize,
}

/// Puts every node on a branch, and says how many there are. A node goes on with the branch of one that it comes after,
/// if that is its last.
fn set_branches(nodes: &mut [ExecNode]) -> usize {
    let mut ends: Vec<usize> = Vec::new();
    for (i, node) in nodes.iter_mut().enumerate() {
        node.branch = ends.iter().position(|end| node.after.contains(end)).unwrap_or(ends.len());
        match ends.get_mut(node.branch) {
            Some(end) => *end = i,
            None => ends.push(i),
        }
    }
    ends.len()
}

impl Exec {
    /// Addresses that a launch allocates and does not free.
    fn leaves_allocated(&self) -> Vec<u64> {
        let freed = |address| self.nodes.iter().any(|n| matches!(n.work, Work::Free(a) if a == address));
        let new = |n: &ExecNode| if let Work::Alloc(new) = n.work { Some(new.address) } else { None };
        self.nodes.iter().filter_map(new).filter(|&address| !freed(address)).collect()
    }
}

impl Driver {
    /// Lays out the nodes of a graph after those with the indices `before`; returns the indices of its last ones.
    fn lay_out(&self, graph: usize, before: &[usize], list: &mut Vec<ExecNode>) -> Result<Vec<usize>> {
        let graph = self.graphs.get(graph).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let mut index = BTreeMap::new();
        for node in graph.order()? {
            let found = &graph.0[&node];
            let mut after: Vec<usize> = found.after.iter().filter_map(|a| index.get(a).copied()).collect();
            if after.is_empty() {
                after = before.to_vec();
            }
            if let Work::Graph(child) = found.work {
                after = self.lay_out(child, &after, list)?;
            }
            index.insert(node, list.len());
            list.push(ExecNode { node, work: found.work.clone(), after, enabled: true, branch: 0 });
        }
        let is_last = |node: &usize| !graph.0.values().any(|n| n.after.contains(node));
        let last: Vec<usize> = index.iter().filter(|(node, _)| is_last(node)).map(|(_, &i)| i).collect();
        Ok(if last.is_empty() { before.to_vec() } else { last })
    }

    /// A node of an instantiated graph.
    pub fn exec_node(&mut self, exec: usize, node: usize) -> Result<&mut ExecNode> {
        let exec = self.execs.get_mut(exec).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        exec.nodes.iter_mut().find(|n| n.node == node).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    /// Puts the work of a graph into the queue, after and before what the stream's order says.
    fn launch_graph(&mut self, handle: usize, stream: usize) -> Result<()> {
        let mut exec = self.execs.remove(handle).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let done = self.renew_graph_memory(&exec, stream).and_then(|()| self.enqueue_nodes(&exec, stream));
        let done = done.map(|end| exec.last = Some(end));
        self.execs.0.insert(handle, exec);
        done
    }

    /// What the last launch left allocated must be free by now, or is freed if the client asked for that.
    fn renew_graph_memory(&mut self, exec: &Exec, stream: usize) -> Result<()> {
        for address in exec.leaves_allocated() {
            if self.graph_memory.get(&address).is_some_and(|m| m.allocated) {
                if exec.flags & AUTO_FREE == 0 {
                    return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
                }
                self.enqueue(stream, &[], Work::Free(address))?;
            }
        }
        for node in &exec.nodes {
            self.follow_graph_memory(&node.work);
        }
        Ok(())
    }

    fn enqueue_nodes(&mut self, exec: &Exec, stream: usize) -> Result<Point> {
        let start = self.enqueue(stream, exec.last.as_slice(), Work::Marker)?;
        let mut points: Vec<Point> = Vec::with_capacity(exec.nodes.len());
        for ExecNode { work, after, enabled, branch, .. } in &exec.nodes {
            let mut before: Vec<Point> = after.iter().map(|&i| points[i].clone()).collect();
            let work = match work {
                _ if !enabled => Work::Marker,
                Work::Wait(event) => {
                    before.extend(self.events.get(*event)?.point.clone());
                    Work::Marker
                }
                other => other.clone(),
            };
            before.push(start.clone());
            let recorded = if let Work::Record(event) = work { Some(event) } else { None };
            let lane = branch.checked_sub(1).map_or(stream, |branch| exec.lanes[branch]);
            let point = self.queue.push(Origin { context: exec.context, stream, lane }, &before, work);
            if let Some(event) = recorded {
                self.events.get_mut(event)?.point = Some(point.clone());
            }
            points.push(point);
        }
        self.enqueue(stream, &points, Work::Marker)
    }

    /// A launch within a capture: the graph becomes a child node.
    fn capture_launch(&mut self, exec: usize, stream: usize) -> Result<()> {
        let exec = self.execs.get(exec).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let work = |n: &ExecNode| match n.work {
            // The nodes of graphs within are in the list themselves.
            Work::Graph(_) => Work::Marker,
            ref work if n.enabled => work.clone(),
            _ => Work::Marker,
        };
        let nodes: Vec<(Work, Vec<usize>)> = exec.nodes.iter().map(|n| (work(n), n.after.clone())).collect();
        let handles: Vec<usize> = nodes.iter().map(|_| self.handle()).collect();
        let mut graph = Graph::default();
        for (&handle, (work, after)) in handles.iter().zip(nodes) {
            graph.add(handle, work, after.into_iter().map(|i| handles[i]).collect());
        }
        if graph.has_memory_nodes() {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        let child = self.insert_graph(graph);
        self.capture(stream, Work::Graph(child))
    }

    fn instantiate(&mut self, context: usize, graph: usize, flags: u64) -> Result<usize> {
        // Auto free, upload, device launch (refused below), node priorities.
        if flags & !15 != 0 || flags & 5 == 5 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        if flags & 4 != 0 {
            return Err(not_built("a graph that the device launches"));
        }
        let mut nodes = Vec::new();
        self.lay_out(graph, &[], &mut nodes)?;
        let twice = self.execs.0.values().any(|exec| exec.graph == graph);
        if twice && self.graphs.get(graph)?.has_memory_nodes() {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        let branches = set_branches(&mut nodes);
        let lanes = (1..branches).map(|_| self.handle()).collect();
        let handle = self.handle();
        self.execs.0.insert(handle, Exec { context, graph, nodes, lanes, last: None, flags });
        Ok(handle)
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphInstantiateWithFlags(out: Out<usize>, graph: usize, flags: u64) -> CUresult {
    in_context(|driver, context| {
        out.check()?;
        out.put(driver.instantiate(context, graph, flags)?)
    })
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`, with an integer for its enumeration.
#[repr(C)]
#[derive(Clone, Copy)]
struct InstantiateParams {
    flags: u64,
    upload_stream: usize,
    error_node: usize,
    result: u32,
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphInstantiateWithParams(
    out: Out<usize>,
    graph: usize,
    params: Out<InstantiateParams>,
) -> CUresult {
    in_context(|driver, context| {
        let given = params.get()?;
        let exec = driver.instantiate(context, graph, given.flags);
        // `CUDA_GRAPH_INSTANTIATE_SUCCESS` or `_ERROR`.
        params.put(InstantiateParams { error_node: 0, result: u32::from(exec.is_err()), ..given })?;
        out.put(exec?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(exec: usize) -> CUresult {
    call(|driver| driver.execs.remove(exec).map(|_| ()).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecGetFlags(exec: usize, flags: Out<u64>) -> CUresult {
    call(|driver| flags.put(driver.execs.get(exec).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?.flags))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphNodeSetEnabled(exec: usize, node: usize, enabled: u32) -> CUresult {
    call(|driver| {
        let node = driver.exec_node(exec, node)?;
        // Kernels, copies and fills.
        if kind(&node.work) > 2 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        node.enabled = enabled != 0;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphNodeGetEnabled(exec: usize, node: usize, enabled: Out<u32>) -> CUresult {
    call(|driver| enabled.put(u32::from(driver.exec_node(exec, node)?.enabled)))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphUpload(exec: usize, stream: usize) -> CUresult {
    in_context(|driver, context| {
        driver.stream(context, stream)?;
        driver.execs.get(exec).map(|_| ()).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphLaunch(exec: usize, stream: usize) -> CUresult {
    in_context(|driver, context| {
        let stream = driver.stream(context, stream)?;
        if driver.streams.get(stream)?.capture.is_some() {
            return driver.capture_launch(exec, stream);
        }
        driver.launch_graph(exec, stream)
    })
}

/// `CUgraphExecUpdateResultInfo`, with an integer for its enumeration.
#[repr(C)]
#[derive(Clone, Copy)]
struct UpdateInfo {
    result: u32,
    error_node: usize,
    error_from_node: usize,
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecUpdate_v2(exec: usize, graph: usize, info: Out<UpdateInfo>) -> CUresult {
    of_graph(graph, |driver, graph| {
        let mut new = Vec::new();
        driver.lay_out(graph, &[], &mut new)?;
        let memory = driver.graphs.get(graph)?.has_memory_nodes();
        let exec = driver.execs.get_mut(exec).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let same_order = exec.nodes.len() == new.len()
            && exec.nodes.iter().zip(&new).all(|(old, new)| old.after == new.after);
        let mut pairs = exec.nodes.iter().zip(&new);
        // Success, topology changed, node type changed, not supported.
        let (result, error_node) = match pairs.find(|(old, new)| kind(&old.work) != kind(&new.work)) {
            _ if !same_order => (2, 0),
            Some((_, new)) => (3, new.node),
            None if memory => (6, 0),
            None => (0, 0),
        };
        info.put(UpdateInfo { result, error_node, error_from_node: 0 })?;
        if result != 0 {
            return Err(CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
        }
        for (old, new) in exec.nodes.iter_mut().zip(new) {
            old.work = new.work;
        }
        Ok(())
    })
}

/// Replaces the graph within a node by another of the same shape.
#[unsafe(no_mangle)]
extern "C" fn cuGraphExecChildGraphNodeSetParams(exec: usize, node: usize, child: usize) -> CUresult {
    of_graph(child, |driver, child| {
        let exec = driver.execs.get(exec).map(|_| exec).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let nodes = &driver.execs.get(exec)?.nodes;
        let at = nodes.iter().position(|n| n.node == node && matches!(n.work, Work::Graph(_)));
        let at = at.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        // Its nodes lie before it; lay the new ones out as if they stood there.
        let mut new: Vec<ExecNode> = Vec::new();
        driver.lay_out(child, &[], &mut new)?;
        let first = at.checked_sub(new.len()).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let same = |(old, new): (&ExecNode, &ExecNode)| {
            let inner = old.after.iter().filter(|&&i| i >= first).map(|i| i - first);
            kind(&old.work) == kind(&new.work) && inner.eq(new.after.iter().copied())
        };
        if !nodes[first..at].iter().zip(&new).all(same) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let nodes = &mut driver.execs.get_mut(exec)?.nodes;
        for (old, new) in nodes[first..at].iter_mut().zip(new) {
            old.work = new.work;
        }
        Ok(())
    })
}
