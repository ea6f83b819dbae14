//! Graphs: `cuGraph*`. A graph is work with an order; launching one puts its nodes into the queue.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Driver, Locked, call,
    copy::Copy3D,
    error::{CUresult, Result, not_built},
    ffi::{In, Out},
    in_context,
    launch::Arguments,
    queue::Point,
    work::{End, Fill, HostFunction, Work},
};
use crate::exec::LaunchConfig;

/// A node.
#[derive(Debug, Clone)]
pub struct Node {
    work: Work,
    after: Vec<usize>,
    /// The node that this one is a clone of.
    original: Option<usize>,
    /// Pointers to the arguments, for a client that asks for them.
    arguments: Box<[usize]>,
}

/// A graph: its nodes by handle, in the order of their creation.
#[derive(Debug, Clone, Default)]
pub struct Graph(BTreeMap<usize, Node>);

/// A graph that can be launched.
#[derive(Debug)]
pub struct Exec {
    context: usize,
    /// Handle in the graph, work, and indices of the nodes before, which come earlier.
    nodes: Vec<ExecNode>,
    flags: u64,
}

#[derive(Debug)]
struct ExecNode {
    node: usize,
    work: Work,
    after: Vec<usize>,
    enabled: bool,
}

/// `CUgraphNodeType`.
fn kind(work: &Work) -> u32 {
    match work {
        Work::Kernel(_) => 0,
        Work::Copy(_) => 1,
        Work::Fill(_) => 2,
        Work::Host(_) => 3,
        Work::Marker => 5,
        Work::Wait(_) => 6,
        Work::Record(_) => 7,
        Work::Free(_) => 11,
    }
}

impl Graph {
    /// Adds a node.
    pub fn add(&mut self, node: usize, work: Work, after: Vec<usize>) {
        self.0.insert(node, Node { work, after, original: None, arguments: Box::default() });
    }

    /// These nodes and all that they come after.
    pub fn ancestors(&self, nodes: &[usize]) -> BTreeSet<usize> {
        let (mut open, mut found) = (nodes.to_vec(), BTreeSet::new());
        while let Some(node) = open.pop() {
            if found.insert(node) {
                open.extend(self.0.get(&node).into_iter().flat_map(|n| &n.after));
            }
        }
        found
    }

    /// The nodes in an order that keeps dependencies and, beyond that, the order of creation.
    fn order(&self) -> Result<Vec<usize>> {
        let mut open: BTreeSet<usize> = self.0.keys().copied().collect();
        let mut order = Vec::with_capacity(open.len());
        while !open.is_empty() {
            let ready = open.iter().copied().find(|n| self.0[n].after.iter().all(|a| !open.contains(a)));
            let node = ready.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
            open.remove(&node);
            order.push(node);
        }
        Ok(order)
    }

    fn exec_nodes(&self) -> Result<Vec<ExecNode>> {
        let order = self.order()?;
        let index: BTreeMap<usize, usize> = order.iter().enumerate().map(|(i, &n)| (n, i)).collect();
        let exec = |&node: &usize| {
            let Node { work, after, .. } = &self.0[&node];
            let after = after.iter().filter_map(|a| index.get(a).copied()).collect();
            ExecNode { node, work: work.clone(), after, enabled: true }
        };
        Ok(order.iter().map(exec).collect())
    }
}

impl Driver {
    /// The graph that a node is in.
    fn graph_of(&mut self, node: usize) -> Result<&mut Graph> {
        let graph = self.graphs.0.values_mut().find(|g| g.0.contains_key(&node));
        graph.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    fn node(&mut self, node: usize) -> Result<&mut Node> {
        self.graph_of(node)?.0.get_mut(&node).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    fn add_node(&mut self, out: Out<usize>, graph: usize, after: Vec<usize>, work: Work) -> Result<()> {
        out.check()?;
        let node = self.handle();
        let graph = self.graphs.get_mut(graph).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        if after.iter().any(|a| !graph.0.contains_key(a)) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        graph.add(node, work, after);
        out.put(node)
    }

    fn exec_node(&mut self, exec: usize, node: usize) -> Result<&mut ExecNode> {
        let exec = self.execs.get_mut(exec).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        exec.nodes.iter_mut().find(|n| n.node == node).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    /// Puts the work of a graph into the queue, after and before what the stream's order says.
    fn launch_graph(&mut self, exec: usize, stream: usize) -> Result<()> {
        let exec = self.execs.0.remove(&exec).map(|e| (exec, e)).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let done = self.enqueue_nodes(&exec.1, stream);
        self.execs.0.insert(exec.0, exec.1);
        done
    }

    fn enqueue_nodes(&mut self, exec: &Exec, stream: usize) -> Result<()> {
        let start = self.enqueue(stream, &[], Work::Marker)?;
        let mut points: Vec<Point> = Vec::with_capacity(exec.nodes.len());
        for ExecNode { work, after, enabled, .. } in &exec.nodes {
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
            let point = self.queue.push(exec.context, stream, &before, work);
            if let Some(event) = recorded {
                self.events.get_mut(event)?.point = Some(point.clone());
            }
            points.push(point);
        }
        self.enqueue(stream, &points, Work::Marker).map(|_| ())
    }

    fn instantiate(&mut self, context: usize, graph: usize, flags: u64) -> Result<usize> {
        // Auto free, upload, device launch (refused below), node priorities.
        if flags & !15 != 0 || flags & 5 == 5 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        if flags & 4 != 0 {
            return Err(not_built("a graph that the device launches"));
        }
        let graph = self.graphs.get(graph).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let nodes = graph.exec_nodes()?;
        let handle = self.handle();
        self.execs.0.insert(handle, Exec { context, nodes, flags });
        Ok(handle)
    }
}

/// Runs an entry point about graphs, which needs no context.
fn of_graph(graph: usize, body: impl FnOnce(&mut Locked, usize) -> Result<()>) -> CUresult {
    call(|driver| {
        driver.graphs.get(graph).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        body(driver, graph)
    })
}

/// Writes a list as `cuGraphGetNodes` does: with null only its length, else as much as there is room for, and null
/// for what is over.
fn put_list(list: &[usize], out: Out<usize>, count: Out<usize>) -> Result<()> {
    if out.is_null() {
        return count.put(list.len());
    }
    let room = count.get()?;
    out.put_all(list.iter().copied().chain(std::iter::repeat(0)).take(room))?;
    count.put(list.len().min(room))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphCreate(graph: Out<usize>, flags: u32) -> CUresult {
    call(|driver| {
        if flags != 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let handle = driver.handle();
        graph.put(handle)?;
        driver.graphs.0.insert(handle, Graph::default());
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(graph: usize) -> CUresult {
    of_graph(graph, |driver, graph| driver.graphs.remove(graph).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphClone(out: Out<usize>, graph: usize) -> CUresult {
    of_graph(graph, |driver, graph| {
        let nodes: Vec<(usize, Node)> = driver.graphs.get(graph)?.0.clone().into_iter().collect();
        let names: BTreeMap<usize, usize> = nodes.iter().map(|(node, _)| (*node, driver.handle())).collect();
        let clone = |(node, n): (usize, Node)| {
            let after = n.after.iter().filter_map(|a| names.get(a).copied()).collect();
            (names[&node], Node { after, original: Some(node), arguments: Box::default(), ..n })
        };
        let clone = Graph(nodes.into_iter().map(clone).collect());
        let handle = driver.handle();
        out.put(handle)?;
        driver.graphs.0.insert(handle, clone);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphNodeFindInClone(out: Out<usize>, node: usize, clone: usize) -> CUresult {
    of_graph(clone, |driver, clone| {
        let mut nodes = driver.graphs.get(clone)?.0.iter();
        let found = nodes.find(|(_, n)| n.original == Some(node)).map(|(&handle, _)| handle);
        out.put(found.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphGetNodes(graph: usize, nodes: Out<usize>, count: Out<usize>) -> CUresult {
    of_graph(graph, |driver, graph| {
        let list: Vec<usize> = driver.graphs.get(graph)?.0.keys().copied().collect();
        put_list(&list, nodes, count)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphGetRootNodes(graph: usize, nodes: Out<usize>, count: Out<usize>) -> CUresult {
    of_graph(graph, |driver, graph| {
        let nodes_of = driver.graphs.get(graph)?.0.iter();
        let list: Vec<usize> = nodes_of.filter(|(_, n)| n.after.is_empty()).map(|(&h, _)| h).collect();
        put_list(&list, nodes, count)
    })
}

fn edges(graph: usize, from: Out<usize>, to: Out<usize>, count: Out<usize>) -> CUresult {
    of_graph(graph, |driver, graph| {
        let nodes = driver.graphs.get(graph)?.0.iter();
        let edges = nodes.flat_map(|(&node, n)| n.after.iter().map(move |&a| (a, node)));
        let (before, behind): (Vec<usize>, Vec<usize>) = edges.unzip();
        let room = if from.is_null() { 0 } else { count.get()? };
        put_list(&before, from, count)?;
        if !to.is_null() {
            to.put_all(behind.into_iter().chain(std::iter::repeat(0)).take(room))?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphGetEdges(graph: usize, from: Out<usize>, to: Out<usize>, count: Out<usize>) -> CUresult {
    edges(graph, from, to, count)
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphGetEdges_v2(
    graph: usize,
    from: Out<usize>,
    to: Out<usize>,
    data: Out<u64>,
    count: Out<usize>,
) -> CUresult {
    let room = if data.is_null() || from.is_null() { Ok(0) } else { count.get() };
    match edges(graph, from, to, count) {
        // Every edge is a full dependency: all zero.
        CUresult::CUDA_SUCCESS if !data.is_null() => {
            let zero = room.and_then(|room| data.put_all(std::iter::repeat_n(0, room)));
            zero.map_or_else(|code| code, |()| CUresult::CUDA_SUCCESS)
        }
        code => code,
    }
}

fn dependencies(node: usize, out: Out<usize>, count: Out<usize>) -> CUresult {
    call(|driver| {
        let after = driver.node(node)?.after.clone();
        put_list(&after, out, count)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphNodeGetDependencies(node: usize, out: Out<usize>, count: Out<usize>) -> CUresult {
    dependencies(node, out, count)
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphNodeGetDependencies_v2(
    node: usize,
    out: Out<usize>,
    _data: Out<u64>,
    count: Out<usize>,
) -> CUresult {
    dependencies(node, out, count)
}

fn change_edges(
    graph: usize,
    from: In<usize>,
    to: In<usize>,
    count: usize,
    change: fn(&mut Vec<usize>, usize) -> bool,
) -> CUresult {
    of_graph(graph, |driver, graph| {
        let pairs = from.list(count)?.into_iter().zip(to.list(count)?);
        let graph = driver.graphs.get_mut(graph)?;
        for (from, to) in pairs {
            if !graph.0.contains_key(&from) || from == to {
                return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
            }
            let node = graph.0.get_mut(&to).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
            if !change(&mut node.after, from) {
                return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddDependencies_v2(
    graph: usize,
    from: In<usize>,
    to: In<usize>,
    _data: In<u64>,
    count: usize,
) -> CUresult {
    change_edges(graph, from, to, count, |after, node| {
        let new = !after.contains(&node);
        after.push(node);
        new
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphRemoveDependencies_v2(
    graph: usize,
    from: In<usize>,
    to: In<usize>,
    _data: In<u64>,
    count: usize,
) -> CUresult {
    change_edges(graph, from, to, count, |after, node| {
        let found = after.iter().position(|&a| a == node);
        found.map(|i| after.remove(i)).is_some()
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphNodeGetType(node: usize, out: Out<u32>) -> CUresult {
    call(|driver| out.put(kind(&driver.node(node)?.work)))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroyNode(node: usize) -> CUresult {
    call(|driver| {
        let graph = driver.graph_of(node)?;
        graph.0.remove(&node);
        graph.0.values_mut().for_each(|n| n.after.retain(|&a| a != node));
        Ok(())
    })
}

/// `CUDA_KERNEL_NODE_PARAMS_v1`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParamsV1 {
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    arguments: usize,
    extra: usize,
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParams {
    v1: KernelParamsV1,
    kernel: usize,
    context: usize,
}

impl Locked {
    fn kernel_work(&mut self, p: &KernelParamsV1, kernel: usize) -> Result<Work> {
        let function = if p.function == 0 { kernel } else { p.function };
        let config = LaunchConfig { grid: p.grid, block: p.block, dynamic_shared: p.shared };
        let arguments = Arguments { pointers: p.arguments, extra: p.extra };
        Ok(Work::Kernel(self.launch_of(function, config, arguments)?))
    }

    /// Parameters of a kernel node. The pointers in them live as long as the node does.
    fn kernel_params(&mut self, node: usize) -> Result<KernelParamsV1> {
        let node = self.node(node)?;
        let Work::Kernel(launch) = &node.work else {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        };
        let info = launch.module.kernel(&launch.name).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        let base = launch.params.as_ptr() as usize;
        node.arguments = info.params.iter().map(|p| base + p.offset as usize).collect();
        Ok(KernelParamsV1 {
            function: launch.function,
            grid: launch.config.grid,
            block: launch.config.block,
            shared: launch.config.dynamic_shared,
            arguments: node.arguments.as_ptr() as usize,
            extra: 0,
        })
    }

    /// Replaces a node's work by other work of the same kind.
    fn set_work(&mut self, exec: Option<usize>, node: usize, work: Work) -> Result<()> {
        let own = match exec {
            Some(exec) => &mut self.exec_node(exec, node)?.work,
            None => &mut self.node(node)?.work,
        };
        if kind(own) != kind(&work) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        *own = work;
        Ok(())
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddKernelNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    params: In<KernelParamsV1>,
) -> CUresult {
    in_context(|driver, _| {
        let work = driver.kernel_work(&params.get()?, 0)?;
        driver.add_node(out, graph, after.list(count)?, work)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddKernelNode_v2(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    params: In<KernelParams>,
) -> CUresult {
    in_context(|driver, _| {
        let params = params.get()?;
        let work = driver.kernel_work(&params.v1, params.kernel)?;
        driver.add_node(out, graph, after.list(count)?, work)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphKernelNodeGetParams(node: usize, out: Out<KernelParamsV1>) -> CUresult {
    call(|driver| out.put(driver.kernel_params(node)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphKernelNodeGetParams_v2(node: usize, out: Out<KernelParams>) -> CUresult {
    call(|driver| out.put(KernelParams { v1: driver.kernel_params(node)?, kernel: 0, context: 0 }))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphKernelNodeSetParams(node: usize, params: In<KernelParamsV1>) -> CUresult {
    in_context(|driver, _| {
        let work = driver.kernel_work(&params.get()?, 0)?;
        driver.set_work(None, node, work)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphKernelNodeSetParams_v2(node: usize, params: In<KernelParams>) -> CUresult {
    in_context(|driver, _| {
        let params = params.get()?;
        let work = driver.kernel_work(&params.v1, params.kernel)?;
        driver.set_work(None, node, work)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecKernelNodeSetParams(
    exec: usize,
    node: usize,
    params: In<KernelParamsV1>,
) -> CUresult {
    in_context(|driver, _| {
        let work = driver.kernel_work(&params.get()?, 0)?;
        driver.set_work(Some(exec), node, work)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecKernelNodeSetParams_v2(
    exec: usize,
    node: usize,
    params: In<KernelParams>,
) -> CUresult {
    in_context(|driver, _| {
        let params = params.get()?;
        let work = driver.kernel_work(&params.v1, params.kernel)?;
        driver.set_work(Some(exec), node, work)
    })
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MemsetParams {
    dst: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}

impl Locked {
    fn memset_work(&self, p: MemsetParams) -> Result<Work> {
        if !matches!(p.element, 1 | 2 | 4) || p.height == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let (width, height, pitch) = (p.width as u64, p.height as u64, p.pitch as u64);
        let row = width.checked_mul(p.element.into()).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let span = pitch.checked_mul(height - 1).and_then(|bytes| bytes.checked_add(row));
        self.check_range(&End::Known(p.dst), span.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?)?;
        Ok(Work::Fill(Fill { dst: p.dst, pitch, value: p.value, element: p.element, width, height }))
    }

    fn copy_work(&self, params: In<Copy3D>) -> Result<Work> {
        let copy = self.copy_of(&params.get()?)?;
        self.check_range(&copy.src, copy.span(copy.src_pitch))?;
        self.check_range(&copy.dst, copy.span(copy.dst_pitch))?;
        Ok(Work::Copy(copy))
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddMemsetNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    params: In<MemsetParams>,
    _context: usize,
) -> CUresult {
    in_context(|driver, _| {
        let work = driver.memset_work(params.get()?)?;
        driver.add_node(out, graph, after.list(count)?, work)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecMemsetNodeSetParams(
    exec: usize,
    node: usize,
    params: In<MemsetParams>,
    _context: usize,
) -> CUresult {
    in_context(|driver, _| {
        let work = driver.memset_work(params.get()?)?;
        driver.set_work(Some(exec), node, work)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddMemcpyNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    params: In<Copy3D>,
    _context: usize,
) -> CUresult {
    in_context(|driver, _| {
        let work = driver.copy_work(params)?;
        driver.add_node(out, graph, after.list(count)?, work)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecMemcpyNodeSetParams(
    exec: usize,
    node: usize,
    params: In<Copy3D>,
    _context: usize,
) -> CUresult {
    in_context(|driver, _| {
        let work = driver.copy_work(params)?;
        driver.set_work(Some(exec), node, work)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddEmptyNode(out: Out<usize>, graph: usize, after: In<usize>, count: usize) -> CUresult {
    call(|driver| driver.add_node(out, graph, after.list(count)?, Work::Marker))
}

/// `CUDA_HOST_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
struct HostParams {
    function: Option<unsafe extern "C" fn(*mut std::ffi::c_void)>,
    data: usize,
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddHostNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    params: In<HostParams>,
) -> CUresult {
    call(|driver| {
        let HostParams { function, data } = params.get()?;
        driver.add_node(out, graph, after.list(count)?, Work::Host(HostFunction { function, data }))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddEventRecordNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    event: usize,
) -> CUresult {
    call(|driver| {
        driver.events.get(event)?;
        driver.add_node(out, graph, after.list(count)?, Work::Record(event))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddEventWaitNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    event: usize,
) -> CUresult {
    call(|driver| {
        driver.events.get(event)?;
        driver.add_node(out, graph, after.list(count)?, Work::Wait(event))
    })
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
        driver.exec_node(exec, node)?.enabled = enabled != 0;
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
            return Err(not_built("cuGraphLaunch during stream capture"));
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
        let new = driver.graphs.get(graph)?.exec_nodes()?;
        let exec = driver.execs.get_mut(exec).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let same_order = exec.nodes.len() == new.len()
            && exec.nodes.iter().zip(&new).all(|(old, new)| old.after == new.after);
        let mut pairs = exec.nodes.iter().zip(&new);
        // Success, topology changed, node type changed.
        let (result, error_node) = match pairs.find(|(old, new)| kind(&old.work) != kind(&new.work)) {
            _ if !same_order => (2, 0),
            Some((_, new)) => (3, new.node),
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
