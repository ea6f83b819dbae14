//! Stream capture and graphs, as cudarc and as the plain API use them.

mod common;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{
    CudaContext, CudaStream, DriverError, LaunchConfig, PushKernelArg, result,
    sys::{
        self, CUgraphInstantiate_flags as Flags, CUresult,
        CUstreamCaptureMode_enum::{
            CU_STREAM_CAPTURE_MODE_GLOBAL as GLOBAL, CU_STREAM_CAPTURE_MODE_RELAXED as RELAXED,
            CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as THREAD_LOCAL,
        },
    },
};
use cudarc::nvrtc::Ptx;

/// `scale(x, v)`: multiplies the word x by v.
const PTX: &str = r"
.version 8.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 x, .param .u32 v) {
    .reg .b32 %r<4>; .reg .b64 %rd;
    ld.param.u64 %rd, [x]; ld.param.u32 %r1, [v];
    ld.global.u32 %r2, [%rd]; mul.lo.u32 %r3, %r2, %r1; st.global.u32 [%rd], %r3;
    ret;
}
";

/// A global capture forbids allocations to every thread, so these tests take turns.
fn context() -> (MutexGuard<'static, ()>, Arc<CudaContext>) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    common::load();
    let ctx = CudaContext::new_non_primary(0, 0).unwrap();
    // SAFETY: each test orders its own streams.
    unsafe { ctx.disable_event_tracking() };
    (turn, ctx)
}

fn code<T>(result: Result<T, DriverError>) -> CUresult {
    result.err().map_or(CUresult::CUDA_SUCCESS, |e| e.0)
}

fn word(value: u32) -> u64 {
    // SAFETY: the allocation is one word.
    unsafe {
        let x = result::malloc_sync(4).unwrap();
        result::memcpy_htod_sync(x, &value.to_le_bytes()).unwrap();
        x
    }
}

fn read(x: u64) -> u32 {
    let mut bytes = [0u8; 4];
    // SAFETY: x is a word.
    unsafe { result::memcpy_dtoh_sync(&mut bytes, x) }.unwrap();
    u32::from_le_bytes(bytes)
}

fn set(stream: &CudaStream, x: u64, value: u32) -> CUresult {
    // SAFETY: x is a word.
    unsafe { sys::cuMemsetD32Async(x, value, 1, stream.cu_stream()) }
}

fn set_in_legacy_stream(x: u64) -> CUresult {
    // SAFETY: x is a word.
    unsafe { sys::cuMemsetD8_v2(x, 0, 1) }
}

fn allocate() -> Result<u64, DriverError> {
    // SAFETY: a plain allocation.
    unsafe { result::malloc_sync(4) }
}

fn copy(stream: &CudaStream, dst: u64, src: u64) {
    // SAFETY: both are words.
    unsafe { result::memcpy_dtod_async(dst, src, 4, stream.cu_stream()) }.unwrap();
}

#[test]
fn a_graph_repeats_what_was_captured() {
    let (_turn, ctx) = context();
    let stream = ctx.new_stream().unwrap();
    let f = ctx.load_module(Ptx::from_src(PTX)).unwrap().load_function("scale").unwrap();
    let (x, y) = (word(5), word(1));
    let one = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
    stream.begin_capture(THREAD_LOCAL).unwrap();
    // SAFETY: `scale` works on the word x.
    unsafe { stream.launch_builder(&f).arg(&x).arg(&3u32).launch(one) }.unwrap();
    copy(&stream, y, x);
    let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
    assert_eq!((read(x), read(y)), (5, 1), "capturing runs nothing");
    graph.launch().unwrap();
    graph.launch().unwrap();
    assert_eq!((read(x), read(y)), (5, 1), "a launch is deferred like other work");
    stream.synchronize().unwrap();
    assert_eq!((read(x), read(y)), (45, 45));
    graph.upload().unwrap();
}

#[test]
fn events_fork_and_join_a_capture() {
    let (_turn, ctx) = context();
    let (a, b) = (ctx.new_stream().unwrap(), ctx.new_stream().unwrap());
    let (x, y) = (word(0), word(0));
    a.begin_capture(GLOBAL).unwrap();
    assert_eq!(set(&a, x, 7), CUresult::CUDA_SUCCESS);
    let fork = ctx.new_event(None).unwrap();
    fork.record(&a).unwrap();
    b.wait(&fork).unwrap();
    assert_eq!(b.capture_status().unwrap(), sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    copy(&b, y, x);
    let join = ctx.new_event(None).unwrap();
    join.record(&b).unwrap();
    a.wait(&join).unwrap();
    assert_eq!(code(fork.synchronize()), CUresult::CUDA_ERROR_CAPTURED_EVENT);
    let graph = a.end_capture(Flags(0)).unwrap().unwrap();
    assert_eq!(b.capture_status().unwrap(), sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE);
    graph.launch().unwrap();
    a.synchronize().unwrap();
    assert_eq!(read(y), 7);

    let mut count = 0;
    let mut nodes = [std::ptr::null_mut(); 3];
    let mut kind = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
    // SAFETY: the graph lives; `nodes` has room for three.
    unsafe {
        sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &mut count).result().unwrap();
        assert_eq!(count, 2);
        count = 3;
        sys::cuGraphGetNodes(graph.cu_graph(), nodes.as_mut_ptr(), &mut count).result().unwrap();
        assert_eq!((count, nodes[2].is_null()), (2, true));
        sys::cuGraphNodeGetType(nodes[0], &mut kind).result().unwrap();
        assert_eq!(kind, sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEMSET);
        let (mut from, mut to, mut edges) = ([std::ptr::null_mut()], [std::ptr::null_mut()], 1);
        let none = std::ptr::null_mut();
        sys::cuGraphGetEdges_v2(graph.cu_graph(), from.as_mut_ptr(), to.as_mut_ptr(), none, &mut edges)
            .result()
            .unwrap();
        assert_eq!((from[0], to[0], edges), (nodes[0], nodes[1], 1));
    }
}

#[test]
fn wrong_calls_during_a_capture_have_their_codes() {
    let (_turn, ctx) = context();
    let (a, b) = (ctx.new_stream().unwrap(), ctx.new_stream().unwrap());
    let x = word(0);
    let outside = b.record_event(None).unwrap();
    // Each call, what it answers, and what the end of the capture answers then.
    type Call<'a> = (&'a str, &'a dyn Fn() -> CUresult, CUresult);
    let calls: [Call<'_>; 6] = [
        ("synchronise it", &|| code(a.synchronize()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
        ("synchronise all", &|| code(ctx.synchronize()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
        ("allocate", &|| code(allocate()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
        ("legacy stream", &|| set_in_legacy_stream(x), CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT),
        ("outside event", &|| code(a.wait(&outside)), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION),
        ("destroy nothing", &|| CUresult::CUDA_SUCCESS, CUresult::CUDA_SUCCESS),
    ];
    let mut blocking = std::ptr::null_mut();
    // SAFETY: made and never destroyed.
    unsafe { sys::cuStreamCreate(&mut blocking, 0) }.result().unwrap();
    for (what, call, expected) in calls {
        // cudarc's streams do not block the legacy stream; this one does.
        let raw = if what == "legacy stream" { blocking } else { a.cu_stream() };
        // SAFETY: the stream lives.
        unsafe { result::stream::begin_capture(raw, GLOBAL) }.unwrap();
        assert_eq!(call(), expected, "{what}");
        // SAFETY: as above.
        let ended = code(unsafe { result::stream::end_capture(raw) });
        let spoilt = match expected {
            CUresult::CUDA_SUCCESS => CUresult::CUDA_SUCCESS,
            _ => CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
        };
        assert_eq!(ended, spoilt, "{what}");
    }
    // What was refused harmed nothing.
    assert_eq!(set(&a, x, 9), CUresult::CUDA_SUCCESS);
    a.synchronize().unwrap();
    assert_eq!(read(x), 9);
}

#[test]
fn captures_begin_and_end_where_they_must() {
    let (_turn, ctx) = context();
    let (a, b) = (ctx.new_stream().unwrap(), ctx.new_stream().unwrap());
    let end = |stream: &Arc<CudaStream>| code(stream.end_capture(Flags(0)).map(|_| ()));
    assert_eq!(
        code(ctx.default_stream().begin_capture(GLOBAL)),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    );
    assert_eq!(end(&a), CUresult::CUDA_ERROR_ILLEGAL_STATE);
    a.begin_capture(RELAXED).unwrap();
    assert_eq!(code(a.begin_capture(RELAXED)), CUresult::CUDA_ERROR_ILLEGAL_STATE);
    // A relaxed capture forbids nobody to allocate.
    let x = word(1);
    let fork = ctx.new_event(None).unwrap();
    fork.record(&a).unwrap();
    b.wait(&fork).unwrap();
    assert_eq!(set(&b, x, 2), CUresult::CUDA_SUCCESS);
    assert_eq!(end(&b), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    assert_eq!(end(&a), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    a.begin_capture(RELAXED).unwrap();
    fork.record(&a).unwrap();
    b.wait(&fork).unwrap();
    assert_eq!(set(&b, x, 2), CUresult::CUDA_SUCCESS);
    assert_eq!(end(&a), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);

    a.begin_capture(RELAXED).unwrap();
    b.begin_capture(RELAXED).unwrap();
    fork.record(&a).unwrap();
    assert_eq!(code(b.wait(&fork)), CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE);
    assert_eq!(end(&b), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    assert_eq!(end(&a), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    a.begin_capture(THREAD_LOCAL).unwrap();
    let other = std::thread::scope(|s| s.spawn(|| end(&a)).join().unwrap());
    assert_eq!(other, CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    assert_eq!(end(&a), CUresult::CUDA_SUCCESS);
    assert_eq!(read(x), 1);
}

#[test]
fn built_cloned_and_updated() {
    let (_turn, ctx) = context();
    let stream = ctx.new_stream().unwrap();
    let f = ctx.load_module(Ptx::from_src(PTX)).unwrap().load_function("scale").unwrap();
    let mut x = word(2);
    let (mut graph, mut clone, mut node) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
    let (mut exec, mut twin) = (std::ptr::null_mut(), std::ptr::null_mut());
    let params = |args: &mut [*mut std::ffi::c_void; 2]| sys::CUDA_KERNEL_NODE_PARAMS_v2_st {
        func: f.cu_function(),
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 1,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        kernelParams: args.as_mut_ptr(),
        extra: std::ptr::null_mut(),
        kern: std::ptr::null_mut(),
        ctx: std::ptr::null_mut(),
    };
    let (mut three, mut five) = (3u32, 5u32);
    let address = (&raw mut x).cast();
    let (mut by_three, mut by_five) = ([address, (&raw mut three).cast()], [address, (&raw mut five).cast()]);
    // SAFETY: handles come from the calls before; arguments are those of `scale`.
    unsafe {
        let launch = |exec| {
            result::graph::launch(exec, stream.cu_stream()).unwrap();
            stream.synchronize().unwrap();
        };
        sys::cuGraphCreate(&mut graph, 0).result().unwrap();
        let kernel = params(&mut by_three);
        sys::cuGraphAddKernelNode_v2(&mut node, graph, std::ptr::null(), 0, &kernel).result().unwrap();
        sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0).result().unwrap();
        launch(exec);
        assert_eq!(read(x), 6);
        // The parameters of one node of what is instantiated.
        sys::cuGraphExecKernelNodeSetParams_v2(exec, node, &params(&mut by_five)).result().unwrap();
        launch(exec);
        assert_eq!(read(x), 30);
        // The graph itself did not change; a client can read its node.
        let mut seen = params(&mut by_five);
        sys::cuGraphKernelNodeGetParams_v2(node, &mut seen).result().unwrap();
        assert_eq!((*seen.kernelParams.add(1)).cast::<u32>().read(), 3);
        // An update from the graph brings the old value back.
        let mut info = std::mem::zeroed();
        sys::cuGraphExecUpdate_v2(exec, graph, &mut info).result().unwrap();
        launch(exec);
        assert_eq!(read(x), 90);

        sys::cuGraphClone(&mut clone, graph).result().unwrap();
        let mut copy = std::ptr::null_mut();
        sys::cuGraphNodeFindInClone(&mut copy, node, clone).result().unwrap();
        assert_ne!(copy, node);
        sys::cuGraphAddEmptyNode(&mut copy, clone, &copy, 1).result().unwrap();
        assert_eq!(
            sys::cuGraphExecUpdate_v2(exec, clone, &mut info),
            CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE
        );
        assert_eq!(info.result, sys::CUgraphExecUpdateResult::CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
        sys::cuGraphDestroy(graph).result().unwrap();
        sys::cuGraphInstantiateWithFlags(&mut twin, clone, 0).result().unwrap();
        launch(twin);
        assert_eq!(read(x), 270);
        sys::cuGraphExecDestroy(exec).result().unwrap();
        assert_eq!(sys::cuGraphExecDestroy(exec), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
}

/// The handles of a graph's nodes, and their types.
fn nodes(graph: sys::CUgraph) -> Vec<(sys::CUgraphNode, sys::CUgraphNodeType)> {
    let mut count = 0;
    // SAFETY: the graph lives, and the list has room for as many nodes as it has.
    unsafe {
        sys::cuGraphGetNodes(graph, std::ptr::null_mut(), &mut count).result().unwrap();
        let mut nodes = vec![std::ptr::null_mut(); count];
        sys::cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count).result().unwrap();
        let kind = |&node: &sys::CUgraphNode| {
            let mut kind = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
            sys::cuGraphNodeGetType(node, &mut kind).result().unwrap();
            (node, kind)
        };
        nodes.iter().map(kind).collect()
    }
}

const CHILD: sys::CUgraphNodeType = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_GRAPH;

#[test]
fn a_graph_within_a_graph() {
    let (_turn, ctx) = context();
    let stream = ctx.new_stream().unwrap();
    let (x, y, z) = (word(0), word(0), word(0));
    // x = 7; y = x, captured as a graph of its own, and the same for another value.
    let inner = |value| {
        stream.begin_capture(THREAD_LOCAL).unwrap();
        assert_eq!(set(&stream, x, value), CUresult::CUDA_SUCCESS);
        copy(&stream, y, x);
        stream.end_capture(Flags(0)).unwrap().unwrap()
    };
    let (seven, eight) = (inner(7), inner(8));
    let outer = {
        stream.begin_capture(THREAD_LOCAL).unwrap();
        copy(&stream, z, y);
        stream.end_capture(Flags(0)).unwrap().unwrap()
    };
    let (mut child, mut within, mut exec) =
        (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: handles come from the calls before, and the streams' memory lives.
    unsafe {
        // The child comes before the copy that the outer graph has.
        let graph = outer.cu_graph();
        let first = nodes(graph)[0].0;
        sys::cuGraphAddChildGraphNode(&mut child, graph, std::ptr::null(), 0, seven.cu_graph())
            .result()
            .unwrap();
        sys::cuGraphAddDependencies_v2(graph, &child, &first, std::ptr::null(), 1).result().unwrap();
        assert_eq!(nodes(graph)[1], (child, CHILD));
        sys::cuGraphChildGraphNodeGetGraph(child, &mut within).result().unwrap();
        assert_eq!(nodes(within).len(), 2);
        assert_ne!(within, seven.cu_graph(), "the child is a copy");
        assert_eq!(sys::cuGraphDestroy(within), CUresult::CUDA_ERROR_INVALID_VALUE);
        let none = sys::cuGraphChildGraphNodeGetGraph(first, &mut within);
        assert_eq!(none, CUresult::CUDA_ERROR_INVALID_VALUE);

        sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0).result().unwrap();
        let launch = |exec| {
            result::graph::launch(exec, stream.cu_stream()).unwrap();
            stream.synchronize().unwrap();
            [x, y, z].map(read)
        };
        assert_eq!(launch(exec), [7, 7, 7]);
        // Another graph of the same shape in its place, and one of another shape.
        sys::cuGraphExecChildGraphNodeSetParams(exec, child, eight.cu_graph()).result().unwrap();
        assert_eq!(launch(exec), [8, 8, 8]);
        let unlike = sys::cuGraphExecChildGraphNodeSetParams(exec, child, graph);
        assert_eq!(unlike, CUresult::CUDA_ERROR_INVALID_VALUE);
        // A clone has a child of its own; when all else is gone it still runs.
        let (mut clone, mut twin) = (std::ptr::null_mut(), std::ptr::null_mut());
        sys::cuGraphClone(&mut clone, graph).result().unwrap();
        let copied = nodes(clone).into_iter().find(|(_, kind)| *kind == CHILD).unwrap().0;
        drop((outer, seven));
        let mut lost = std::ptr::null_mut();
        let gone = sys::cuGraphChildGraphNodeGetGraph(child, &mut lost);
        assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_VALUE);
        sys::cuGraphChildGraphNodeGetGraph(copied, &mut within).result().unwrap();
        sys::cuGraphInstantiateWithFlags(&mut twin, clone, 0).result().unwrap();
        assert_eq!(launch(twin), [7, 7, 7]);
        sys::cuGraphDestroy(clone).result().unwrap();
        assert_eq!(sys::cuGraphDestroy(within), CUresult::CUDA_ERROR_INVALID_VALUE, "it went with the clone");
    }
}

#[test]
fn a_launch_within_a_capture_is_a_child() {
    let (_turn, ctx) = context();
    let (a, b) = (ctx.new_stream().unwrap(), ctx.new_stream().unwrap());
    let f = ctx.load_module(Ptx::from_src(PTX)).unwrap().load_function("scale").unwrap();
    let (x, y) = (word(3), word(0));
    let one = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
    a.begin_capture(THREAD_LOCAL).unwrap();
    // SAFETY: `scale` works on the word x.
    unsafe { a.launch_builder(&f).arg(&x).arg(&10u32).launch(one) }.unwrap();
    let scale = a.end_capture(Flags(0)).unwrap().unwrap();
    b.begin_capture(THREAD_LOCAL).unwrap();
    for _ in 0..2 {
        // SAFETY: both live.
        unsafe { result::graph::launch(scale.cu_graph_exec(), b.cu_stream()) }.unwrap();
    }
    copy(&b, y, x);
    let graph = b.end_capture(Flags(0)).unwrap().unwrap();
    assert_eq!(nodes(graph.cu_graph()).iter().filter(|(_, kind)| *kind == CHILD).count(), 2);
    drop(scale);
    assert_eq!((read(x), read(y)), (3, 0), "capturing runs nothing");
    graph.launch().unwrap();
    b.synchronize().unwrap();
    assert_eq!((read(x), read(y)), (300, 300));
}

#[test]
fn launches_of_a_graph_follow_each_other_in_any_stream() {
    let (_turn, ctx) = context();
    let (a, b) = (ctx.new_stream().unwrap(), ctx.new_stream().unwrap());
    let f = ctx.load_module(Ptx::from_src(PTX)).unwrap().load_function("scale").unwrap();
    let x = word(1);
    let one = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
    a.begin_capture(THREAD_LOCAL).unwrap();
    // SAFETY: `scale` works on the word x.
    unsafe { a.launch_builder(&f).arg(&x).arg(&2u32).launch(one) }.unwrap();
    let graph = a.end_capture(Flags(0)).unwrap().unwrap();
    for stream in [&a, &b, &a, &b] {
        // SAFETY: both live.
        unsafe { result::graph::launch(graph.cu_graph_exec(), stream.cu_stream()) }.unwrap();
    }
    b.synchronize().unwrap();
    assert_eq!(read(x), 16, "waiting for the last launch waits for all of them");
}

#[test]
fn a_captured_allocation_lives_while_its_graph_runs() {
    let (_turn, ctx) = context();
    let stream = ctx.new_stream().unwrap();
    let (x, y) = (word(6), word(0));
    let raw = stream.cu_stream();
    let free = || ctx.mem_get_info().unwrap().0;
    let before = free();
    stream.begin_capture(THREAD_LOCAL).unwrap();
    // SAFETY: addresses are words that the calls before gave.
    let t = unsafe {
        let t = result::malloc_async(raw, 4).unwrap();
        copy(&stream, t, x);
        copy(&stream, y, t);
        result::free_async(t, raw).unwrap();
        // Only what a graph allocates can be freed by one.
        assert_eq!(code(result::free_async(x, raw)), CUresult::CUDA_ERROR_INVALID_VALUE);
        t
    };
    let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
    use sys::CUgraphNodeType::{CU_GRAPH_NODE_TYPE_MEM_ALLOC, CU_GRAPH_NODE_TYPE_MEM_FREE};
    let kinds: Vec<_> = nodes(graph.cu_graph()).into_iter().map(|(_, kind)| kind).collect();
    assert_eq!((kinds[0], kinds[3]), (CU_GRAPH_NODE_TYPE_MEM_ALLOC, CU_GRAPH_NODE_TYPE_MEM_FREE));
    for value in [1, 2] {
        assert_eq!(set(&stream, x, value), CUresult::CUDA_SUCCESS);
        graph.launch().unwrap();
        stream.synchronize().unwrap();
        assert_eq!((read(y), free()), (value, before));
    }
    // It was freed within, and such a graph is neither cloned, nested, taken apart nor instantiated twice.
    let mut other = std::ptr::null_mut();
    let mut node = std::ptr::null_mut();
    // SAFETY: the handles live; every call is refused.
    unsafe {
        assert_eq!(code(result::free_async(t, raw)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::free_sync(t)), CUresult::CUDA_ERROR_INVALID_VALUE);
        let refused = CUresult::CUDA_ERROR_NOT_SUPPORTED;
        assert_eq!(sys::cuGraphClone(&mut other, graph.cu_graph()), refused);
        let none = std::ptr::null();
        assert_eq!(
            sys::cuGraphAddChildGraphNode(&mut node, graph.cu_graph(), none, 0, graph.cu_graph()),
            refused
        );
        assert_eq!(sys::cuGraphDestroyNode(nodes(graph.cu_graph())[1].0), refused);
        let mut exec = std::ptr::null_mut();
        assert_eq!(sys::cuGraphInstantiateWithFlags(&mut exec, graph.cu_graph(), 0), refused);
        let mut info = std::mem::zeroed();
        let update = sys::cuGraphExecUpdate_v2(graph.cu_graph_exec(), graph.cu_graph(), &mut info);
        assert_eq!(update, CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    }
}

#[test]
fn what_a_graph_leaves_allocated_must_be_freed_before_it_runs_again() {
    let (_turn, ctx) = context();
    let stream = ctx.new_stream().unwrap();
    let raw = stream.cu_stream();
    let x = word(4);
    let capture = |flags| {
        stream.begin_capture(THREAD_LOCAL).unwrap();
        // SAFETY: a word.
        let t = unsafe { result::malloc_async(raw, 4) }.unwrap();
        copy(&stream, t, x);
        (t, stream.end_capture(Flags(flags)).unwrap().unwrap())
    };
    let (t, graph) = capture(0);
    graph.launch().unwrap();
    assert_eq!(code(graph.launch()), CUresult::CUDA_ERROR_INVALID_VALUE);
    stream.synchronize().unwrap();
    assert_eq!(read(t), 4, "work after the graph sees its memory");
    // SAFETY: allocated by the launch.
    unsafe { result::free_async(t, raw) }.unwrap();
    graph.launch().unwrap();
    // SAFETY: as above.
    unsafe { result::free_sync(t) }.unwrap();
    graph.launch().unwrap();
    // A graph with a free node gives it back as well.
    let mut free = std::ptr::null_mut();
    let mut node = std::ptr::null_mut();
    let mut exec = std::ptr::null_mut();
    let mut address = 0;
    // SAFETY: handles come from the calls before.
    unsafe {
        sys::cuGraphCreate(&mut free, 0).result().unwrap();
        let refused = sys::cuGraphAddMemFreeNode(&mut node, free, std::ptr::null(), 0, x);
        assert_eq!(refused, CUresult::CUDA_ERROR_INVALID_VALUE);
        sys::cuGraphAddMemFreeNode(&mut node, free, std::ptr::null(), 0, t).result().unwrap();
        sys::cuGraphMemFreeNodeGetParams(node, &mut address).result().unwrap();
        sys::cuGraphInstantiateWithFlags(&mut exec, free, 0).result().unwrap();
        result::graph::launch(exec, raw).unwrap();
    }
    assert_eq!(address, t);
    graph.launch().unwrap();
    stream.synchronize().unwrap();
    assert_eq!(read(t), 4);

    // Or each launch frees what the one before left.
    const AUTO_FREE: u32 = Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH.0;
    let (t, graph) = capture(AUTO_FREE);
    for value in [1, 2, 3] {
        assert_eq!(set(&stream, x, value), CUresult::CUDA_SUCCESS);
        graph.launch().unwrap();
        stream.synchronize().unwrap();
        assert_eq!(read(t), value);
    }
}

#[test]
fn allocation_nodes_have_parameters() {
    let (_turn, ctx) = context();
    let stream = ctx.new_stream().unwrap();
    let (mut graph, mut node, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: zeros are valid in these structures; handles come from the calls before.
    unsafe {
        let mut params: sys::CUDA_MEM_ALLOC_NODE_PARAMS = std::mem::zeroed();
        params.poolProps.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        params.poolProps.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        params.bytesize = 4;
        sys::cuGraphCreate(&mut graph, 0).result().unwrap();
        sys::cuGraphAddMemAllocNode(&mut node, graph, std::ptr::null(), 0, &mut params).result().unwrap();
        let before = ctx.mem_get_info().unwrap().0;
        sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0).result().unwrap();
        result::graph::launch(exec, stream.cu_stream()).unwrap();
        assert_eq!(set(&stream, params.dptr, 11), CUresult::CUDA_SUCCESS);
        stream.synchronize().unwrap();
        assert_eq!((read(params.dptr), ctx.mem_get_info().unwrap().0), (11, before - 256));
        params.bytesize = 0;
        let nothing = sys::cuGraphAddMemAllocNode(&mut node, graph, std::ptr::null(), 0, &mut params);
        assert_eq!(nothing, CUresult::CUDA_ERROR_INVALID_VALUE);
    }
}
