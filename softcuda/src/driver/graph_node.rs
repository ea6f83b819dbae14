//! What the nodes of a graph do, and how a client sets it: `cuGraphAdd*Node`, `cuGraph*NodeSetParams`.

use super::{
    Locked, call,
    copy::Copy3D,
    error::{CUresult, Result},
    ffi::{In, Out},
    graph::kind,
    in_context,
    launch::Arguments,
    pool::PoolProps,
    work::{End, Fill, HostFunction, Work},
};
use crate::exec::LaunchConfig;

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
extern "C" fn cuGraphAddChildGraphNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    child: usize,
) -> CUresult {
    call(|driver| {
        let work = driver.child(child)?;
        driver.add_node(out, graph, after.list(count)?, work)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphChildGraphNodeGetGraph(node: usize, graph: Out<usize>) -> CUresult {
    call(|driver| match driver.node(node)?.work {
        Work::Graph(child) => graph.put(child),
        _ => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    })
}

/// `CUDA_MEM_ALLOC_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
struct AllocParams {
    pool: PoolProps,
    access: usize,
    access_count: usize,
    bytes: usize,
    address: u64,
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddMemAllocNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    params: Out<AllocParams>,
) -> CUresult {
    in_context(|driver, _| {
        let given = params.get()?;
        let device = given.pool.check(driver)?;
        let new = driver.reserve_for_graph(device, given.bytes)?;
        driver.add_node(out, graph, after.list(count)?, Work::Alloc(new))?;
        params.put(AllocParams { address: new.address, ..given })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddMemFreeNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    address: u64,
) -> CUresult {
    in_context(|driver, _| {
        if !driver.graph_memory.contains_key(&address) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        driver.add_node(out, graph, after.list(count)?, Work::Free(address))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphMemFreeNodeGetParams(node: usize, address: Out<u64>) -> CUresult {
    call(|driver| match driver.node(node)?.work {
        Work::Free(freed) => address.put(freed),
        _ => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    })
}
