"""Mutants of a function or class: copies with one small change of the source, such as a typical mistake makes."""

import ast
import copy
import inspect
import sys
import textwrap

SWAPPED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
           ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
           ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
           ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}


def changed(node, **fields):
    """A copy of a node with other fields."""
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def variants_of_constant(node):
    """Other values of a number or a truth value."""
    if isinstance(node.value, bool):
        return [ast.Constant(not node.value)]
    if isinstance(node.value, int):
        return [ast.Constant(value) for value in {node.value + 1, node.value - 1}]
    if isinstance(node.value, float):
        return [ast.Constant(node.value * 2)]
    return []


def variants_of_operation(node):
    """Another operator, one operand alone, and for a matrix product the operands swapped."""
    variants = [node.left, node.right]
    if type(node.op) in SWAPPED:
        variants.append(changed(node, op=SWAPPED[type(node.op)]()))
    if isinstance(node.op, ast.MatMult):
        variants.append(changed(node, left=node.right, right=node.left))
    return variants


def variants_of_call(node):
    """Without the call, without one keyword, with two arguments swapped; -inf becomes -10."""
    if isinstance(node.func, ast.Name) and node.func.id == "float" and node.args:
        return [ast.Constant(-10.0)]
    variants = [changed(node, keywords=[word for word in node.keywords if word is not left_out])
                for left_out in node.keywords]
    if isinstance(node.func, ast.Attribute):
        variants.append(node.func.value)
    if len(node.args) == 1:
        variants.append(node.args[0])
    for i in range(len(node.args) - 1):
        swapped = [*node.args[:i], node.args[i + 1], node.args[i], *node.args[i + 2:]]
        variants.append(changed(node, args=swapped))
    return variants


def variants_of(node):
    """The expressions that may stand in place of one."""
    if isinstance(node, ast.Constant):
        return variants_of_constant(node)
    if isinstance(node, ast.BinOp):
        return variants_of_operation(node)
    if isinstance(node, ast.Call):
        return variants_of_call(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        return [node.operand]
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, ast.BoolOp):
        return [changed(node, op=SWAPPED[type(node.op)]()), *node.values]
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        return [changed(node, ops=[SWAPPED[type(node.ops[0])](), *node.ops[1:]])]
    if isinstance(node, ast.Slice):
        return [changed(node, **{part: None}) for part in ("lower", "upper", "step") if getattr(node, part)]
    return []


class _Replace(ast.NodeTransformer):
    """Puts another node in the place of one; None removes a statement."""

    def __init__(self, old, new):
        self.old, self.new = old, new

    def visit(self, node):
        if node is self.old:
            return self.new
        return self.generic_visit(node)


def values_in(source_object, run):
    """What the names and expressions of a function meant in its first call: {function's name: (globals, locals)}."""
    lines, first = inspect.getsourcelines(source_object)
    file, seen = inspect.getsourcefile(source_object), {}

    def local(frame, event, argument):
        if event == "return":
            seen.setdefault(frame.f_code.co_name, (frame.f_globals, dict(frame.f_locals)))
        return local

    def enter(frame, event, argument):
        code = frame.f_code
        if code.co_filename == file and first <= code.co_firstlineno < first + len(lines):
            return local

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        run()
    finally:
        sys.settrace(before)
    return seen


def fixed_values(tree, seen):
    """(node, constant) for every name, attribute, shape or len() that was a whole number in the first call."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name in seen:
            for node in (inner for statement in function.body for inner in ast.walk(statement)):
                is_len = isinstance(node, ast.Call) and ast.unparse(node.func) == "len"
                if is_len or isinstance(getattr(node, "ctx", None), ast.Load):
                    try:
                        value = eval(ast.unparse(node), *seen[function.name])
                    except Exception:  # a name that exists only inside a comprehension, for example
                        continue
                    if type(value) is int:
                        yield node, ast.Constant(value)


def statements_to_drop(tree):
    """Statements without which the code is still a program: calls, changes in place, assignments to a part."""
    for node in ast.walk(tree):
        for body in (getattr(node, name, None) for name in ("body", "orelse")):
            for statement in body if isinstance(body, list) else ():
                is_part = isinstance(statement, ast.Assign) and not isinstance(statement.targets[0], ast.Name)
                is_call = isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant)
                if isinstance(statement, ast.AugAssign) or is_call or is_part:
                    yield statement


def mutated_sources(solution, run):
    """The sources of all mutants, each different. run() calls the solution at least once, as its check does."""
    source = textwrap.dedent(inspect.getsource(solution))
    tree = ast.parse(source)
    decorators = {id(node) for each in ast.walk(tree) for decorator in getattr(each, "decorator_list", ())
                  for node in ast.walk(decorator)}
    changes = [(node, new) for node in ast.walk(tree) if id(node) not in decorators for new in variants_of(node)]
    changes += [(node, ast.Pass()) for node in statements_to_drop(tree)]
    changes += list(fixed_values(tree, values_in(solution, run)))
    sources = {}
    for old, new in changes:
        mutant = _Replace(old, new).visit(_copy_of_path(tree, old))
        try:
            sources[ast.unparse(ast.fix_missing_locations(mutant))] = None
        except (AttributeError, TypeError, ValueError):
            continue
    sources.pop(ast.unparse(tree), None)
    return list(sources)


def _copy_of_path(node, target):
    """A copy of a tree in which `target` itself, and not a copy of it, is still found."""
    if node is target or not isinstance(node, ast.AST):
        return node
    other = copy.copy(node)
    for name, value in ast.iter_fields(node):
        if isinstance(value, list):
            setattr(other, name, [_copy_of_path(part, target) for part in value])
        else:
            setattr(other, name, _copy_of_path(value, target))
    return other


def build(solution, source):
    """The mutant itself, made from its source, with what the solution's module knows."""
    namespace = dict(vars(sys.modules[solution.__module__]))
    exec(compile(source, "<mutant>", "exec"), namespace)
    return namespace[solution.__name__]
