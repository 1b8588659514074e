"""ptx_cpu.py: what NVIDIA's compiler makes of a .cu file, run on a CPU.

cuda_cpu.h runs the source of a kernel, but not what stands in it for a GPU alone, such as inline
assembly. Here NVRTC compiles the same text for a GPU. Its output is in PTX, the assembly language
that a driver turns into machine code. It becomes C++ line by line, one statement for an
instruction, behind cuda_cpu.h as ever and ptx_cpu.h. With LONGHAND_PTX=1, cupy_cpu.RawModule takes
this way. All it needs is NVRTC (pip install nvidia-cuda-nvrtc).

PTX: docs.nvidia.com/cuda/parallel-thread-execution. Only the instructions that occur are known;
another is an error.
"""

import ctypes
import functools
import glob
import re
import sys
from pathlib import Path

KINDS = {"pred": "bool", "b16": "uint16_t", "b32": "uint32_t", "b64": "uint64_t", "f32": "float",
         "f64": "double"}
KINDS |= {f"{k}{n}": f"{t}{n}_t" for k, t in (("u", "uint"), ("s", "int")) for n in (8, 16, 32, 64)}
BINARY = {"add": "+", "sub": "-", "div": "/", "rem": "%", "and": "&", "or": "|", "xor": "^"}
COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
OPPOSITE = {"equ": "!=", "neu": "==", "ltu": ">=", "leu": ">", "gtu": "<=", "geu": "<"}     # or NaN
SPECIAL = {"tid": "threadIdx", "ntid": "blockDim", "ctaid": "blockIdx", "nctaid": "gridDim"}
# To a whole number: the nearest, the next towards zero, below, above.
WHOLE = {"rni": "std::nearbyint", "rzi": "std::trunc", "rmi": "std::floor", "rpi": "std::ceil"}
# What may stand between the name of an instruction and its type. Numbers are exact where PTX allows
# an error (approx), and the smallest ones are kept (ftz).
ROUNDED = "rn ftz"
PARTS = {
    "abs": "ftz", "add": ROUNDED, "bar": "sync", "bra": "uni",
    "cp": "async ca cg commit_group global shared wait_group",
    "cvt": f"bf16 bf16x2 sat {ROUNDED} {' '.join(WHOLE)}", "cvta": "global shared to",
    "div": f"approx full {ROUNDED}", "ex2": "approx ftz", "fma": f"rm {ROUNDED}",
    "ld": "global local param shared v2 v4",
    "ldmatrix": "aligned m8n8 shared sync trans x4", "mad": "lo", "max": "ftz", "min": "ftz",
    "mma": "aligned bf16 col m16n8k16 row sync", "mul": f"hi lo wide {ROUNDED}", "neg": "ftz",
    "rcp": f"approx {ROUNDED}", "rsqrt": "approx ftz",
    "setp": f"ftz {' '.join([*COMPARE, *OPPOSITE])}", "shfl": "bfly idx sync",
    "sqrt": f"approx {ROUNDED}", "st": "global local shared v2 v4", "sub": ROUNDED,
}
LDMATRIX = ("ldmatrix.sync.aligned.m8n8.x4.shared.b16",
            "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16")
CALLS = {"ex2": "exp2f", "rsqrt": "rsqrtf", "sqrt": "std::sqrt", "abs": "std::abs",
         "min": "minimum", "max": "maximum"}


@functools.lru_cache(maxsize=None)
def nvrtc():
    """NVIDIA's run-time compiler: from its package, from the system, or None."""
    packaged = [path for folder in sys.path
                for path in sorted(glob.glob(f"{folder}/nvidia/*/lib/libnvrtc.so.1[23]"))]
    for path in (*packaged, "libnvrtc.so.13", "libnvrtc.so.12",
                 *glob.glob("/usr/local/cuda*/lib64/libnvrtc.so.1[23]")):
        try:
            for builtins in glob.glob(
                str(Path(path).parent / "libnvrtc-builtins.so.*")
            ):  # it looks for these by name alone
                ctypes.CDLL(builtins)
            return ctypes.CDLL(path)
        except OSError:
            continue
    return None


def compiled(code, defines=(), arch="sm_90"):
    """(PTX, what the compiler had to say) of a .cu text, which it also assembles for that GPU,
    with the options that CuPy gives it."""
    library, program = nvrtc(), ctypes.c_void_p()

    def text(what):
        n = ctypes.c_size_t()
        getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(n))
        found = ctypes.create_string_buffer(n.value)
        getattr(library, f"nvrtcGet{what}")(program, found)
        return found.value.decode()

    library.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None)
    options = [f"-arch={arch}", "--std=c++17", "-ftz=true", "--device-as-default-execution-space",
               *defines]
    try:
        if library.nvrtcCompileProgram(program, len(options),
                                       (ctypes.c_char_p * len(options))(*map(str.encode, options))):
            raise RuntimeError(f"NVRTC, {' '.join(options)}:\n{text('ProgramLog')}")
        return text("PTX"), text("ProgramLog").strip()
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def resources(said):
    """{kernel: (registers of a thread, bytes of shared memory of a block, bytes that spill)}, from
    what the assembler says with -Xptxas=-v."""
    found = {}
    for entry in said.split("Compiling entry function ")[1:]:
        name, registers = re.match(r"'(\w+)'", entry), re.search(r"Used (\d+) registers", entry)
        shared = re.search(r"(\d+) bytes smem", entry)
        spilled = re.search(r"(\d+) bytes spill stores", entry)
        found[name[1]] = int(registers[1]), int(shared[1]) if shared else 0, int(spilled[1])
    return found


def split(operands):
    """At the commas that are not within braces."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,])+", operands)]


def members(operand):
    """Of {%r1, %r2}, or of %r1 alone."""
    return [part.strip() for part in operand.strip("{}").split(",")]


def put_each(group, array):
    return " ".join(f"put({register(name)}, {array}[{i}]);" for i, name in enumerate(group))


class Kernel:
    def __init__(self, name, parameters, body, shared):
        self.name, self.shared = name, shared
        self.parameters, self.registers, self.lines, self.local = parameters, [], [], 0
        for line in body:
            self.line(line)

    def cpp(self):
        arguments = ", ".join(f"{KINDS[kind]} {name}" for kind, name in self.parameters)
        local = f"    alignas(16) char local[{self.local}];\n" if self.local else ""
        return (f"void {self.name}({arguments}) {{\n{local}"
                + "".join(f"    {line}\n" for line in [*self.registers, *self.lines]) + "}\n")

    def line(self, line):
        if re.fullmatch(r"(\.pragma|\.shared) .*;|[{}]|", line):
            pass
        elif m := re.fullmatch(r"(\$\w+):", line):
            self.lines.append(f"{label(m[1])}:;")
        elif m := re.fullmatch(r"\.reg \.(\w+)\s+(%?\w+)<(\d+)>;", line):
            names = ", ".join(f"{register(m[2])}{i}{{}}" for i in range(int(m[3])))
            self.registers.append(f"{KINDS[m[1]]} {names};")
        elif m := re.fullmatch(r"\.reg \.(\w+)\s+([%\w, ]+);", line):
            names = ", ".join(register(name) + "{}" for name in m[2].split(","))
            declared = f"{KINDS[m[1]]} {names};"
            if declared not in self.registers:      # blocks in braces have a %temp each
                self.registers.append(declared)
        elif m := re.fullmatch(r"\.local \.align \d+ \.b8\s+(\w+)\[(\d+)\];", line):
            self.local = int(m[2])
        elif m := re.fullmatch(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*?);", line):
            statement = self.instruction(m[3].split("."), split(m[4]))
            if m[2]:
                statement = f"if ({m[1]}{register(m[2])}) {{ {statement} }}"
            operation, *kinds = m[3].split(".")
            is_double = "f64" in kinds and operation not in ("ld", "st", "mov", "selp")
            self.lines.append(f"STEP{'_DOUBLE' if is_double else ''} {statement}")
        else:
            raise NotImplementedError(f"{self.name}: {line}")

    def value(self, operand, kind):
        """An operand, read as a kind."""
        if m := re.fullmatch(r"%(n?tid|n?ctaid)\.([xyz])", operand):
            return f"({KINDS[kind]}){SPECIAL[m[1]]}.{m[2]}"
        if operand.startswith("%"):
            return f"as<{KINDS[kind]}>({register(operand)})"
        if m := re.fullmatch(r"0[fF](\w{8})", operand):
            return f"as<{KINDS[kind]}>(as<float>(0x{m[1]}u))"
        if m := re.fullmatch(r"0[dD](\w{16})", operand):
            return f"as<{KINDS[kind]}>(as<double>(0x{m[1]}ull))"
        if operand in self.shared:
            return f"({KINDS[kind]}){self.shared[operand]}"
        if operand.startswith("__local_depot"):
            return f"({KINDS[kind]})(uint64_t)local"
        if kind == "pred":
            return "true" if int(operand) else "false"
        if kind in ("f32", "f64"):
            return f"({KINDS[kind]}){operand}"
        return f"({KINDS[kind]}){int(operand, 0) & (1 << 64) - 1}ull"

    def address(self, operand, space):
        at = re.fullmatch(r"\[([^+\]]+)(?:\+(-?\d+))?\]", operand)
        is_short = space == "shared" and re.match(r"%r\d", at[1])
        base = self.value(at[1].strip(), "u32" if is_short else "u64")
        whole = f"({base} + {int(at[2] or 0)})"
        return f"shared_at({whole})" if space == "shared" else f"(char *){whole}"

    def touch(self, space, address, n_bytes):
        if space not in ("global", "shared"):
            return ""
        return f"TOUCH({len(self.lines)}, {space}, {address}, {n_bytes}) "

    def values(self, group, kind):
        """The operands of a group, as the contents of an array in C++."""
        return "{" + ", ".join(self.value(name, kind) for name in group) + "}"

    def instruction(self, parts, x):
        op, kind = parts[0], parts[-1]
        type_ = KINDS.get(kind)
        unknown = set(parts[1:]) - KINDS.keys() - set(PARTS.get(op, "").split())
        if unknown:             # a part that is not told apart below would give other numbers
            raise NotImplementedError(".".join(parts))

        def put(e):
            return f"put({register(x[0])}, {e});"

        def v(i, k=None):
            return self.value(x[i], k or kind)

        if op == "ld" and "param" in parts:
            return put(x[1].strip("[]"))
        if op in ("ld", "st"):
            space, load = parts[1], op == "ld"
            at, group = self.address(x[load], space), members(x[1 - load])
            if not load:
                stores = [f"at[{i}] = {self.value(name, kind)};" for i, name in enumerate(group)]
                body = " ".join(stores)
            elif len(group) == 1:
                body = put_each(group, "at")
            else:               # all are read before one is written that the address may be made of
                body = f"{type_} all[{len(group)}]; memcpy(all, at, sizeof all); "
                body += put_each(group, "all")
            return (self.touch(space, at, f"{len(group)} * sizeof({type_})")
                    + f"{{ {type_} *at = ({type_} *){at}; {body} }}")
        if op == "mov" and "{" in x[0] + x[1]:  # halves of one, the lower first
            half, group = {"b32": "b16", "b64": "b32"}[kind], members(x["{" in x[1]])
            if "{" in x[1]:
                return (f"{{ {KINDS[half]} both[2] = {self.values(group, half)}; {type_} m; "
                        f"memcpy(&m, both, sizeof m); {put('m')} }}")
            return (f"{{ {KINDS[half]} both[2]; {type_} m = {v(1)}; memcpy(both, &m, sizeof m); "
                    f"{put_each(group, 'both')} }}")
        if op == "mov":
            return put(v(1))
        if op == "fma":
            return put(f"{'fma_down' if 'rm' in parts else 'std::fma'}({v(1)}, {v(2)}, {v(3)})")
        if op == "mul" and {"wide", "hi"} & set(parts) and kind[1:] != "64":
            wide = KINDS[kind[0] + {"16": "32", "32": "64"}[kind[1:]]]
            whole = f"({wide})({wide}){v(1)} * ({wide}){v(2)}"
            return put(whole if "wide" in parts else f"({type_})({whole} >> {kind[1:]})")
        if op in ("mul", "mad") and not {"wide", "hi"} & set(parts):
            return put(f"({type_})({v(1)} * {v(2)}{f' + {v(3)}' if op == 'mad' else ''})")
        if op in BINARY:
            return put(f"({type_})({v(1)} {BINARY[op]} {v(2)})")
        if op in ("shl", "shr"):
            bits = int(re.search(r"\d+", kind)[0])
            beyond = f"({v(1)} < 0 ? -1 : 0)" if kind[0] == "s" else "0"
            shift, n = {"shl": "<<", "shr": ">>"}[op], v(2, "u32")
            return put(f"({type_})({n} < {bits} ? ({type_})({v(1)} {shift} {n}) : "
                       f"({type_}){beyond})")
        if op in CALLS:
            return put(f"{CALLS[op]}({', '.join(v(i) for i in range(1, len(x)))})")
        if op == "rcp":
            return put(f"({type_})1 / {v(1)}")
        if op == "neg":
            return put(f"({type_})-{v(1)}")
        if op == "not":
            return put(f"!{v(1)}" if kind == "pred" else f"({type_})~{v(1)}")
        if op == "bfi":
            mask, at = f"((1u << {v(4, 'u32')}) - 1)", v(3, "u32")
            return put(f"(({v(1)} & {mask}) << {at}) | ({v(2)} & ~({mask} << {at}))")
        if op == "setp":
            compare = parts[1]
            if compare in COMPARE:
                return put(f"{v(1)} {COMPARE[compare]} {v(2)}")
            return put(f"!({v(1)} {OPPOSITE[compare]} {v(2)})")
        if op == "selp":
            return put(f"{register(x[3])} ? {v(1)} : {v(2)}")
        if op == "cvta":
            a = v(1, "u64")
            if "shared" in parts:
                return put(f"shared_of({a})" if "to" in parts else f"(uint64_t)shared_at({a})")
            return put(a)
        if op == "cvt":
            to, of = parts[-2], parts[-1]
            if to == "bf16x2":
                return put(f"(uint32_t)to_bf16({v(1, of)}) << 16 | to_bf16({v(2, of)})")
            if to == "bf16":
                return put(f"to_bf16({v(1, of)})")
            if "sat" in parts:
                return put(f"fminf(fmaxf({v(1, of)}, 0.0f), 1.0f)")
            rounded = [function for mode, function in WHOLE.items() if mode in parts]
            if rounded and to[0] == "f":
                return put(f"({KINDS[to]}){rounded[0]}({v(1, of)})")
            if of[0] != "f" or to[0] == "f":
                return put(f"({KINDS[to]}){v(1, of)}")
        if op == "bra":
            return f"goto {label(x[0])};"
        if op == "ret":
            return "return;"
        if op == "bar":
            return "__syncthreads();"
        if op == "shfl":
            how = {"bfly": "__shfl_xor_sync", "idx": "__shfl_sync"}[parts[2]]
            x[0] = x[0].split("|")[0]
            return put(f"{how}({v(4, 'u32')}, {v(1, 'b32')}, {v(2, 'u32')})")
        if op == "mma" and parts[3:] == ["m16n8k16", "row", "col", "f32", "bf16", "bf16", "f32"]:
            d, a, b, c = map(members, x)
            return (f"{{ float c[4] = {self.values(c, 'f32')}; uint32_t a[4] = "
                    f"{self.values(a, 'b32')}, b[2] = {self.values(b, 'b32')}; "
                    f"mma_bf16(c, a, b); {put_each(d, 'c')} }}")
        if ".".join(parts) in LDMATRIX:
            how = "ldmatrix_x4_trans" if "trans" in parts else "ldmatrix_x4"
            at = self.address(x[1], "shared")
            return (self.touch("shared", at, 16)
                    + f"{{ uint32_t r[4]; {how}(r, {at}); {put_each(members(x[0]), 'r')} }}")
        if op == "cp" and parts[1] == "async":
            if parts[2] == "commit_group":
                return "cp_async_commit();"
            if parts[2] == "wait_group":
                return f"cp_async_wait<{int(x[0])}>();"
            if parts[2:] in (["cg", "shared", "global"], ["ca", "shared", "global"]):
                to, of, n = self.address(x[0], "shared"), self.address(x[1], "global"), int(x[2])
                n_read = v(3, "u32")
                return (f"{self.touch('shared', to, n)}if ({n_read}) "
                        f"{{ {self.touch('global', of, n)}}} cp_async_{n}({to}, {of}, {n_read});")
        raise NotImplementedError(".".join(parts))


def register(name):
    return "r_" + name.strip().lstrip("%")


def label(name):
    return "l_" + name.strip("$")


def translate(ptx):
    """(C++ to stand behind cuda_cpu.h, the names of the kernels in it)."""
    ptx = re.sub(r"//[^\n]*", "", ptx)
    shared, used = {}, 16
    for m in re.finditer(r"\.(extern \.)?shared \.align (\d+) \.b8 (\w+)\[(\d*)\];", ptx):
        if m[1]:
            shared[m[3]] = "DYNAMIC"
        else:
            used = -(-used // int(m[2])) * int(m[2])
            shared[m[3]], used = used, used + int(m[4])
    kernels = []
    for m in re.finditer(r"\.entry (\w+)\((.*?)\)([^{]*)\{(.*?)\n\}", ptx, re.S):
        parameters = re.findall(r"\.param \.(\w+)\s+(?:\.ptr[ .\w]*\s+)?(\w+)", m[2])
        lines = re.sub(r";[ \t]*(?=\S)", ";\n", m[4].replace("\t", " ")).split("\n")
        lines = [re.sub(r"\s+", " ", line.strip()) for line in lines]
        kernels.append(Kernel(m[1], parameters, lines, shared))
    # The header's text stands in the source, for what was compiled is kept under a digest of it.
    head = Path(__file__).with_name("ptx_cpu.h").read_text()
    source = f"#define SHARED_BYTES {used}\n{head}" + "".join(k.cpp() for k in kernels)
    return source, [k.name for k in kernels]
