//! Graphs: work with an order. What nodes do is in [`super::graph_node`], graphs that can be launched in
//! [`super::graph_exec`].

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Driver, Locked, call,
    error::{CUresult, Result},
    ffi::{In, Out},
    work::Work,
};

/// A node.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it does.
    pub work: Work,
    /// The nodes that it comes after.
    pub after: Vec<usize>,
    /// Pointers to the arguments of a kernel, for a client that asks for them.
    pub arguments: Box<[usize]>,
    /// The node that this one is a clone of.
    original: Option<usize>,
}

/// A graph: its nodes by handle, in the order of their creation.
#[derive(Debug, Clone, Default)]
pub struct Graph(pub BTreeMap<usize, Node>);

/// `CUgraphNodeType`.
pub fn kind(work: &Work) -> u32 {
    match work {
        Work::Kernel(_) => 0,
        Work::Copy(_) => 1,
        Work::Fill(_) => 2,
        Work::Host(_) => 3,
        Work::Graph(_) => 4,
        Work::Marker => 5,
        Work::Wait(_) => 6,
        Work::Record(_) => 7,
        Work::Alloc(_) => 10,
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
    pub fn order(&self) -> Result<Vec<usize>> {
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

    /// Whether it allocates or frees memory. Such a graph may not be cloned, nested, taken apart or instantiated twice.
    pub fn has_memory_nodes(&self) -> bool {
        self.0.values().any(|node| matches!(node.work, Work::Alloc(_) | Work::Free(_)))
    }

    /// The graphs within.
    fn children(&self) -> impl Iterator<Item = usize> {
        self.0.values().filter_map(|node| if let Work::Graph(graph) = node.work { Some(graph) } else { None })
    }
}

impl Driver {
    /// The graph that a node is in.
    fn graph_of(&mut self, node: usize) -> Result<&mut Graph> {
        let graph = self.graphs.0.values_mut().find(|g| g.0.contains_key(&node));
        graph.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    /// A node by its handle.
    pub fn node(&mut self, node: usize) -> Result<&mut Node> {
        self.graph_of(node)?.0.get_mut(&node).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    /// Adds a node and tells its handle.
    pub fn add_node(&mut self, out: Out<usize>, graph: usize, after: Vec<usize>, work: Work) -> Result<()> {
        out.check()?;
        let node = self.handle();
        let graph = self.graphs.get_mut(graph).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        if after.iter().any(|a| !graph.0.contains_key(a)) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        graph.add(node, work, after);
        out.put(node)
    }

    /// A graph like another with nodes of its own, graphs within included.
    ///
    /// # Errors
    /// `CUDA_ERROR_NOT_SUPPORTED` for graphs that allocate.
    pub fn clone_graph(&mut self, graph: usize) -> Result<Graph> {
        let graph = self.graphs.get(graph).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        if graph.has_memory_nodes() {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        let nodes: Vec<(usize, Node)> = graph.0.clone().into_iter().collect();
        let names: BTreeMap<usize, usize> = nodes.iter().map(|(node, _)| (*node, self.handle())).collect();
        let mut clone = Graph::default();
        for (node, n) in nodes {
            let work = match n.work {
                Work::Graph(child) => self.child(child)?,
                other => other,
            };
            let after = n.after.iter().filter_map(|a| names.get(a).copied()).collect();
            let new = Node { work, after, original: Some(node), arguments: Box::default() };
            clone.0.insert(names[&node], new);
        }
        Ok(clone)
    }

    /// The work of a child node: a copy of a graph as it is now.
    pub fn child(&mut self, graph: usize) -> Result<Work> {
        let clone = self.clone_graph(graph)?;
        Ok(Work::Graph(self.insert_graph(clone)))
    }

    /// Gives a graph its handle.
    pub fn insert_graph(&mut self, graph: Graph) -> usize {
        let handle = self.handle();
        self.graphs.0.insert(handle, graph);
        handle
    }

    /// Forgets the graphs within a graph that is gone.
    pub fn drop_children(&mut self, graph: &Graph) {
        for child in graph.children() {
            if let Ok(gone) = self.graphs.remove(child) {
                self.drop_children(&gone);
            }
        }
    }
}

/// Runs an entry point about graphs, which needs no context.
pub fn of_graph(graph: usize, body: impl FnOnce(&mut Locked, usize) -> Result<()>) -> CUresult {
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
    of_graph(graph, |driver, graph| {
        // A graph within another is that one's.
        if driver.graphs.0.values().any(|g| g.children().any(|child| child == graph)) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let gone = driver.graphs.remove(graph)?;
        driver.drop_children(&gone);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphClone(out: Out<usize>, graph: usize) -> CUresult {
    of_graph(graph, |driver, graph| {
        out.check()?;
        let clone = driver.clone_graph(graph)?;
        out.put(driver.insert_graph(clone))
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
        if graph.has_memory_nodes() {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        let gone = graph.0.remove(&node);
        graph.0.values_mut().for_each(|n| n.after.retain(|&a| a != node));
        driver.drop_children(&Graph(gone.map(|n| (node, n)).into_iter().collect()));
        Ok(())
    })
}
