//! Evaluates the syntax tree of a template with Python's values and jinja2's scopes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use minijinja::machinery::ast::{self, BinOpKind, CallArg, CompareOpKind, Expr, Stmt, UnaryOpKind};
use minijinja::value::ValueKind;

use super::arguments::Arguments;
use super::budget::{Budget, Outcome, refuse};
use super::functions::{self, FUNCTIONS};
use super::text::{Char, Text, push};
use super::value::{Loop, Value, contains, equal, order};
use super::{attributes, filters, mentions, methods, operators, predicates, printing};
use crate::time::LocalTime;

/// Expressions and statements inside each other, those of called macros included.
const MAX_DEPTH: usize = 5000;
/// Macros and recursive loops that call each other; Python ends at about as many.
const MAX_CALLS: usize = 200;

/// Variables, and where else to look for them. What `set` assigns is seen until the end of its loop, block or macro.
struct Scope<'t> {
    variables: RefCell<HashMap<&'t str, Value>>,
    parent: Option<Rc<Scope<'t>>>,
}

impl<'t> Scope<'t> {
    fn inside(parent: &Rc<Self>) -> Rc<Self> {
        Rc::new(Self { variables: RefCell::default(), parent: Some(Rc::clone(parent)) })
    }

    fn set(&self, name: &'t str, value: Value) {
        self.variables.borrow_mut().insert(name, value);
    }

    fn get(&self, name: &str) -> Option<Value> {
        let mut scope = Some(self);
        while let Some(here) = scope {
            if let Some(value) = here.variables.borrow().get(name) {
                return Some(value.clone());
            }
            scope = here.parent.as_deref();
        }
        None
    }
}

struct Macro<'t> {
    declaration: &'t ast::Macro<'t>,
    /// Where it is declared: macros see what is there when they are called.
    scope: Rc<Scope<'t>>,
    takes_varargs: bool,
    takes_kwargs: bool,
    takes_caller: bool,
}

/// A loop that may call itself.
struct Recursion<'t> {
    statement: &'t ast::ForLoop<'t>,
    scope: Rc<Scope<'t>>,
}

/// How a statement ends.
#[derive(PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// The rendering of one conversation.
pub(super) struct Evaluator<'t> {
    budget: Budget,
    now: LocalTime,
    macros: Vec<Rc<Macro<'t>>>,
    recursions: Vec<Rc<Recursion<'t>>>,
    /// Which of `varargs`, `kwargs` and `caller` a macro mentions, by its address.
    mentioned: HashMap<*const ast::Macro<'t>, [bool; 3]>,
    depth: usize,
    calls: usize,
}

/// What `template` makes of `variables`.
pub(super) fn evaluate<'t>(
    template: &'t Stmt<'t>,
    budget: Budget,
    variables: Vec<(&'t str, Value)>,
    now: LocalTime,
) -> Outcome<Vec<Char>> {
    let globals = FUNCTIONS.map(|(name, function)| (name, Value::Function(function)));
    let globals = Scope { variables: RefCell::new(globals.into_iter().collect()), parent: None };
    let root = Scope::inside(&Rc::new(globals));
    for (name, value) in variables {
        root.set(name, value);
    }
    let mut evaluator = Evaluator {
        budget,
        now,
        macros: Vec::new(),
        recursions: Vec::new(),
        mentioned: HashMap::new(),
        depth: 0,
        calls: 0,
    };
    let mut out = Vec::new();
    // jinja2 keeps what a template assigns apart from what it is given; nobody sees the difference.
    evaluator.statement(template, &root, &mut out)?;
    Ok(out)
}

impl<'t> Evaluator<'t> {
    fn enter(&mut self) -> Outcome<()> {
        self.budget.step()?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return refuse!(
                "recursion limit: more than {MAX_DEPTH} expressions and statements inside each other"
            );
        }
        Ok(())
    }

    fn emit(&self, out: &mut Vec<Char>, text: &[Char]) -> Outcome<()> {
        self.budget.characters(text.len())?;
        out.extend_from_slice(text);
        Ok(())
    }

    fn body(&mut self, body: &'t [Stmt<'t>], scope: &Rc<Scope<'t>>, out: &mut Vec<Char>) -> Outcome<Flow> {
        for statement in body {
            match self.statement(statement, scope, out)? {
                Flow::Next => {}
                flow => return Ok(flow),
            }
        }
        Ok(Flow::Next)
    }

    /// Text that a body gives, with variables of its own.
    fn captured(&mut self, body: &'t [Stmt<'t>], scope: &Rc<Scope<'t>>) -> Outcome<(Text, Flow)> {
        let mut out = Vec::new();
        let flow = self.body(body, &Scope::inside(scope), &mut out)?;
        self.budget.characters(out.len())?;
        Ok((out.into(), flow))
    }

    fn statement(
        &mut self,
        statement: &'t Stmt<'t>,
        scope: &Rc<Scope<'t>>,
        out: &mut Vec<Char>,
    ) -> Outcome<Flow> {
        self.enter()?;
        let line = mentions::line_of(statement);
        let flow = self.statement_here(statement, scope, out).map_err(|problem| problem.at(line))?;
        self.depth -= 1;
        Ok(flow)
    }

    fn statement_here(
        &mut self,
        statement: &'t Stmt<'t>,
        scope: &Rc<Scope<'t>>,
        out: &mut Vec<Char>,
    ) -> Outcome<Flow> {
        match statement {
            Stmt::Template(template) => return self.body(&template.children, scope, out),
            Stmt::EmitRaw(raw) => {
                self.budget.characters(raw.raw.len())?;
                push(out, raw.raw);
            }
            Stmt::EmitExpr(expression) => {
                let value = self.expression(&expression.expr, scope)?;
                let text = printing::str(&self.budget, &value)?;
                self.emit(out, &text)?;
            }
            Stmt::IfCond(condition) => {
                let holds = self.expression(&condition.expr, scope)?.is_true();
                return self.body(
                    if holds { &condition.true_body } else { &condition.false_body },
                    scope,
                    out,
                );
            }
            Stmt::ForLoop(statement) => return self.for_loop(statement, scope, out),
            Stmt::Continue(_) => return Ok(Flow::Continue),
            Stmt::Break(_) => return Ok(Flow::Break),
            Stmt::Set(set) => {
                let value = self.expression(&set.expr, scope)?;
                self.assign(&set.target, value, scope)?;
            }
            Stmt::SetBlock(set) => {
                let (text, flow) = self.captured(&set.body, scope)?;
                let value = match &set.filter {
                    Some(filter) => self.filter_chain(filter, Value::Text(text), scope)?,
                    None => Value::Text(text),
                };
                self.assign(&set.target, value, scope)?;
                return Ok(flow);
            }
            Stmt::FilterBlock(block) => {
                let (text, flow) = self.captured(&block.body, scope)?;
                let value = self.filter_chain(&block.filter, Value::Text(text), scope)?;
                let text = printing::str(&self.budget, &value)?;
                self.emit(out, &text)?;
                return Ok(flow);
            }
            Stmt::WithBlock(with) => {
                let inner = Scope::inside(scope);
                let mut values = Vec::new();
                for (_, expression) in &with.assignments {
                    values.push(self.expression(expression, scope)?);
                }
                for ((target, _), value) in with.assignments.iter().zip(values) {
                    self.assign(target, value, &inner)?;
                }
                return self.body(&with.body, &inner, out);
            }
            Stmt::Macro(declaration) => {
                let value = self.declare(declaration, scope)?;
                scope.set(declaration.name, value);
            }
            Stmt::CallBlock(block) => {
                let caller = self.declare(&block.macro_decl, scope)?;
                let mut arguments = self.arguments(&block.call.args, scope)?;
                arguments.named.push(("caller".to_owned(), caller));
                let value = self.call(&block.call.expr, arguments, scope)?;
                let text = printing::str(&self.budget, &value)?;
                self.emit(out, &text)?;
            }
            Stmt::AutoEscape(_) | Stmt::Do(_) => return refuse!("`autoescape` and `do` are not supported"),
            Stmt::Block(_) | Stmt::Import(_) | Stmt::FromImport(_) | Stmt::Extends(_) | Stmt::Include(_) => {
                return refuse!("`block`, `extends`, `include` or `import` is not supported");
            }
        }
        Ok(Flow::Next)
    }

    fn assign(&mut self, target: &'t Expr<'t>, value: Value, scope: &Rc<Scope<'t>>) -> Outcome<()> {
        match target {
            Expr::Var(variable) => scope.set(variable.id, value),
            Expr::GetAttr(attribute) => {
                let Value::Namespace(entries) = self.expression(&attribute.expr, scope)? else {
                    return refuse!("cannot assign attribute on non-namespace object");
                };
                value.depth()?;
                let name = Text::from(attribute.name);
                functions::check_attribute(&name)?;
                let mut entries = entries.borrow_mut();
                self.budget.bytes(entries.len() as u64)?;
                match entries.iter_mut().find(|(other, _)| *other == name) {
                    Some((_, old)) => *old = value,
                    None => {
                        self.budget.items(2)?;
                        entries.push((name, value));
                    }
                }
            }
            Expr::List(list) => {
                let values = value.iterate(&self.budget)?;
                if values.len() != list.items.len() {
                    return refuse!("{} values for {} names", values.len(), list.items.len());
                }
                for (target, value) in list.items.iter().zip(values) {
                    self.assign(target, value, scope)?;
                }
            }
            _ => return refuse!("this assignment is not supported"),
        }
        Ok(())
    }

    fn for_loop(
        &mut self,
        statement: &'t ast::Spanned<ast::ForLoop<'t>>,
        scope: &Rc<Scope<'t>>,
        out: &mut Vec<Char>,
    ) -> Outcome<Flow> {
        let items = self.expression(&statement.iter, scope)?;
        let recursion = statement.recursive.then(|| {
            self.recursions.push(Rc::new(Recursion { statement, scope: Rc::clone(scope) }));
            self.recursions.len() - 1
        });
        self.budget.items(1)?;
        self.run_loop(statement, &items, scope, 0, recursion, out)
    }

    fn run_loop(
        &mut self,
        statement: &'t ast::ForLoop<'t>,
        items: &Value,
        scope: &Rc<Scope<'t>>,
        depth0: usize,
        recursion: Option<usize>,
        out: &mut Vec<Char>,
    ) -> Outcome<Flow> {
        let mut items = items.iterate(&self.budget)?;
        if let Some(filter) = &statement.filter_expr {
            let mut kept = Vec::new();
            for item in items {
                let inner = Scope::inside(scope);
                self.assign(&statement.target, item.clone(), &inner)?;
                if self.expression(filter, &inner)?.is_true() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        let state =
            Rc::new(Loop { items, index0: 0.into(), depth0, last_changed: RefCell::new(None), recursion });
        let mut is_ended = false;
        for index in 0..state.items.len() {
            self.budget.step()?;
            state.index0.set(index);
            let inner = Scope::inside(scope);
            self.assign(&statement.target, state.items[index].clone(), &inner)?;
            inner.set("loop", Value::Loop(Rc::clone(&state)));
            match self.body(&statement.body, &inner, out)? {
                Flow::Next => is_ended = true,
                Flow::Continue => {}
                Flow::Break => break,
            }
        }
        // Also where each was left with `break` or `continue`: jinja2 notes an iteration when it ends.
        if !is_ended {
            return self.body(&statement.else_body, &Scope::inside(scope), out);
        }
        Ok(Flow::Next)
    }

    fn declare(&mut self, declaration: &'t ast::Macro<'t>, scope: &Rc<Scope<'t>>) -> Outcome<Value> {
        let [takes_varargs, takes_kwargs, takes_caller] =
            *self.mentioned.entry(std::ptr::from_ref(declaration)).or_insert_with(|| {
                ["varargs", "kwargs", "caller"].map(|name| mentions::mentions(&declaration.body, name))
            });
        self.budget.items(8)?;
        self.macros.push(Rc::new(Macro {
            declaration,
            scope: Rc::clone(scope),
            takes_varargs,
            takes_kwargs,
            takes_caller,
        }));
        Ok(Value::Macro(self.macros.len() - 1))
    }

    fn enter_call(&mut self) -> Outcome<()> {
        self.calls += 1;
        if self.calls > MAX_CALLS {
            return refuse!("recursion limit: more than {MAX_CALLS} macros and loops call each other");
        }
        Ok(())
    }

    fn call_macro(&mut self, number: usize, arguments: Arguments) -> Outcome<Value> {
        let called = Rc::clone(&self.macros[number]);
        let declaration = called.declaration;
        let Arguments { positional, mut named } = arguments;
        self.enter_call()?;
        let inner = Scope::inside(&called.scope);
        let mut positional = positional.into_iter();
        let mut missing = Vec::new();
        for (index, parameter) in declaration.args.iter().enumerate() {
            let Expr::Var(parameter) = parameter else { return refuse!("this macro is not supported") };
            let by_name = |named: &mut Vec<(String, Value)>| {
                named.iter().position(|(name, _)| name == parameter.id).map(|at| named.remove(at).1)
            };
            match positional.next().or_else(|| by_name(&mut named)) {
                Some(value) => inner.set(parameter.id, value),
                None => missing.push((index, parameter.id)),
            }
        }
        let is_explicit = declaration.args.iter().any(|a| matches!(a, Expr::Var(v) if v.id == "caller"));
        if called.takes_caller && !is_explicit {
            let at = named.iter().position(|(name, _)| name == "caller");
            let caller = at.map_or_else(|| Value::undefined("No caller defined"), |at| named.remove(at).1);
            inner.set("caller", caller);
        }
        let first_default = declaration.args.len() - declaration.defaults.len();
        for (index, name) in missing {
            let value = match index.checked_sub(first_default) {
                Some(at) => self.expression(&declaration.defaults[at], &inner)?,
                None => Value::undefined(format!("parameter '{name}' was not provided")),
            };
            inner.set(name, value);
        }
        if called.takes_kwargs {
            let entries = named.into_iter().map(|(name, value)| (Value::text(&name), value));
            inner.set("kwargs", Value::dict(&self.budget, entries)?);
        } else if let Some((name, _)) = named.first() {
            return refuse!("macro `{}` takes no keyword argument `{name}`", declaration.name);
        }
        if called.takes_varargs {
            inner.set("varargs", Value::tuple(&self.budget, positional.collect())?);
        } else if positional.len() > 0 {
            return refuse!(
                "macro `{}` takes not more than {} arguments",
                declaration.name,
                declaration.args.len()
            );
        }
        let mut out = Vec::new();
        self.body(&declaration.body, &inner, &mut out)?;
        self.calls -= 1;
        self.budget.characters(out.len())?;
        Ok(Value::Text(out.into()))
    }

    fn call_loop(&mut self, state: &Loop, arguments: Arguments) -> Outcome<Value> {
        let Some(number) = state.recursion else {
            return refuse!("the loop must have the `recursive` marker to be called recursively");
        };
        let mut bound = arguments.bind("loop", ["iterable"], 1)?;
        let items = bound.take(0).unwrap_or(Value::None);
        self.enter_call()?;
        let recursion = Rc::clone(&self.recursions[number]);
        let mut out = Vec::new();
        let depth0 = state.depth0 + 1;
        self.run_loop(recursion.statement, &items, &recursion.scope, depth0, Some(number), &mut out)?;
        self.calls -= 1;
        self.budget.characters(out.len())?;
        Ok(Value::Text(out.into()))
    }

    fn arguments(&mut self, given: &'t [CallArg<'t>], scope: &Rc<Scope<'t>>) -> Outcome<Arguments> {
        let mut arguments = Arguments::default();
        for argument in given {
            match argument {
                CallArg::Pos(expression) => arguments.positional.push(self.expression(expression, scope)?),
                CallArg::Kwarg(name, expression) => {
                    let value = self.expression(expression, scope)?;
                    self.add_named(&mut arguments, (*name).to_owned(), value)?;
                }
                CallArg::PosSplat(expression) => {
                    let value = self.expression(expression, scope)?;
                    arguments.positional.extend(value.iterate(&self.budget)?);
                }
                CallArg::KwargSplat(expression) => {
                    let Value::Dict(dict) = self.expression(expression, scope)? else {
                        return refuse!("argument after ** must be a map");
                    };
                    self.budget.items(dict.entries.len())?;
                    for (key, value) in &dict.entries {
                        let Value::Text(key) = key else { return refuse!("keywords must be strings") };
                        self.add_named(&mut arguments, key.to_string(), value.clone())?;
                    }
                }
            }
        }
        Ok(arguments)
    }

    fn add_named(&self, arguments: &mut Arguments, name: String, value: Value) -> Outcome<()> {
        self.budget.bytes(arguments.named.len() as u64)?;
        if arguments.named.iter().any(|(other, _)| *other == name) {
            return refuse!("got multiple values for keyword argument `{name}`");
        }
        arguments.named.push((name, value));
        Ok(())
    }

    /// Calls what `called` says, a method where it is `receiver.name`.
    fn call(&mut self, called: &'t Expr<'t>, arguments: Arguments, scope: &Rc<Scope<'t>>) -> Outcome<Value> {
        if let Expr::GetAttr(attribute) = called {
            let receiver = self.expression(&attribute.expr, scope)?;
            if attributes::has_method(&receiver, attribute.name) {
                return methods::call(&self.budget, &receiver, attribute.name, arguments);
            }
            let value = attributes::attribute(&self.budget, &receiver, attribute.name)?;
            if let Value::Undefined(_) = value {
                let kind = receiver.kind();
                return match attributes::is_changing(attribute.name) {
                    true => refuse!(
                        "'{kind}' has no method `{}` here: the sandbox forbids what changes lists and maps",
                        attribute.name
                    ),
                    false => refuse!("'{kind}' has no method `{}`: it is undefined", attribute.name),
                };
            }
            return self.call_value(&value, arguments);
        }
        let value = self.expression(called, scope)?;
        self.call_value(&value, arguments)
    }

    fn call_value(&mut self, value: &Value, arguments: Arguments) -> Outcome<Value> {
        match value {
            Value::Macro(number) => self.call_macro(*number, arguments),
            Value::Function(function) => functions::call(&self.budget, *function, arguments, &self.now),
            Value::Method(method) => methods::call(&self.budget, &method.0, &method.1.to_string(), arguments),
            Value::Loop(state) => self.call_loop(state, arguments),
            Value::Joiner(joiner) => {
                arguments.none("joiner")?;
                let is_used = joiner.is_used.replace(true);
                Ok(if is_used { joiner.separator.clone() } else { Value::text("") })
            }
            Value::Undefined(what) => refuse!("{what}"),
            _ => refuse!("'{}' object is not callable", value.kind()),
        }
    }

    /// The filters of a block, of which the innermost gets `value`.
    fn filter_chain(&mut self, filter: &'t Expr<'t>, value: Value, scope: &Rc<Scope<'t>>) -> Outcome<Value> {
        let Expr::Filter(filter) = filter else { return refuse!("this filter is not supported") };
        let value = match &filter.expr {
            Some(inner) => self.filter_chain(inner, value, scope)?,
            None => value,
        };
        let arguments = self.arguments(&filter.args, scope)?;
        filters::apply(&self.budget, filter.name, &value, arguments)
    }

    fn expression(&mut self, expression: &'t Expr<'t>, scope: &Rc<Scope<'t>>) -> Outcome<Value> {
        self.enter()?;
        let value = match expression {
            Expr::BinOp(operation) => self.operation(operation, scope)?,
            Expr::Compare(comparison) => self.comparison(comparison, scope)?,
            _ => self.simple_expression(expression, scope)?,
        };
        self.depth -= 1;
        Ok(value)
    }

    fn simple_expression(&mut self, expression: &'t Expr<'t>, scope: &Rc<Scope<'t>>) -> Outcome<Value> {
        match expression {
            Expr::Var(variable) => match scope.get(variable.id) {
                Some(value) => Ok(value),
                None if variable.id == "self" => refuse!("`self` is not supported"),
                None => Ok(Value::undefined(format!("undefined value: `{}`", variable.id))),
            },
            Expr::Const(constant) => self.constant(&constant.value),
            Expr::UnaryOp(operation) => {
                let value = self.expression(&operation.expr, scope)?;
                match operation.op {
                    UnaryOpKind::Not => Ok(Value::Bool(!value.is_true())),
                    UnaryOpKind::Neg => operators::negate(&value),
                }
            }
            Expr::IfExpr(choice) => {
                if self.expression(&choice.test_expr, scope)?.is_true() {
                    return self.expression(&choice.true_expr, scope);
                }
                match &choice.false_expr {
                    Some(otherwise) => self.expression(otherwise, scope),
                    None => Ok(Value::undefined(
                        "the inline if-expression evaluated to false and no else section was defined",
                    )),
                }
            }
            Expr::Filter(filter) => {
                let Some(operand) = &filter.expr else { return refuse!("a filter of nothing") };
                let value = self.expression(operand, scope)?;
                let arguments = self.arguments(&filter.args, scope)?;
                filters::apply(&self.budget, filter.name, &value, arguments)
            }
            Expr::Test(test) => {
                let value = self.expression(&test.expr, scope)?;
                let arguments = self.arguments(&test.args, scope)?;
                predicates::holds(&self.budget, test.name, &value, arguments).map(Value::Bool)
            }
            Expr::GetAttr(attribute) => {
                let value = self.expression(&attribute.expr, scope)?;
                attributes::attribute(&self.budget, &value, attribute.name)
            }
            Expr::GetItem(item) => {
                let value = self.expression(&item.expr, scope)?;
                let key = self.expression(&item.subscript_expr, scope)?;
                attributes::item(&self.budget, &value, &key)
            }
            Expr::Slice(slice) => {
                let value = self.expression(&slice.expr, scope)?;
                let mut bound = |bound: &'t Option<Expr<'t>>| {
                    bound.as_ref().map(|bound| self.expression(bound, scope)).transpose()
                };
                let (start, stop, step) = (bound(&slice.start)?, bound(&slice.stop)?, bound(&slice.step)?);
                operators::slice(&self.budget, &value, start.as_ref(), stop.as_ref(), step.as_ref())
            }
            Expr::Call(call) => {
                let arguments = self.arguments(&call.args, scope)?;
                self.call(&call.expr, arguments, scope)
            }
            Expr::List(list) => {
                let items = self.values(&list.items, scope)?;
                Value::list(&self.budget, items)
            }
            Expr::Tuple(tuple) => {
                let items = self.values(&tuple.items, scope)?;
                Value::tuple(&self.budget, items)
            }
            Expr::Map(map) => {
                let keys = self.values(&map.keys, scope)?;
                let values = self.values(&map.values, scope)?;
                Value::dict(&self.budget, keys.into_iter().zip(values))
            }
            Expr::BinOp(_) | Expr::Compare(_) => refuse!("an operator out of place"),
        }
    }

    fn values(&mut self, expressions: &'t [Expr<'t>], scope: &Rc<Scope<'t>>) -> Outcome<Vec<Value>> {
        let mut values = Vec::new();
        for expression in expressions {
            values.push(self.expression(expression, scope)?);
        }
        Ok(values)
    }

    fn constant(&self, value: &minijinja::Value) -> Outcome<Value> {
        match value.kind() {
            ValueKind::None => Ok(Value::None),
            ValueKind::Bool => Ok(Value::Bool(value.is_true())),
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default();
                self.budget.characters(text.len())?;
                Ok(Value::text(text))
            }
            ValueKind::Number if value.is_integer() => match i128::try_from(value.clone()) {
                Ok(value) => Ok(Value::Int(value)),
                Err(_) => refuse!("the integer {value} is too large"),
            },
            ValueKind::Number => match f64::try_from(value.clone()) {
                Ok(value) => Ok(Value::Float(value)),
                Err(_) => refuse!("the number {value} is not supported"),
            },
            kind => refuse!("a constant {kind} is not supported"),
        }
    }

    fn operation(&mut self, operation: &'t ast::BinOp<'t>, scope: &Rc<Scope<'t>>) -> Outcome<Value> {
        let left = self.expression(&operation.left, scope)?;
        match operation.op {
            BinOpKind::ScAnd if !left.is_true() => return Ok(left),
            BinOpKind::ScOr if left.is_true() => return Ok(left),
            _ => {}
        }
        let right = self.expression(&operation.right, scope)?;
        let compared = |operator| self.compare(operator, &left, &right).map(Value::Bool);
        match operation.op {
            BinOpKind::ScAnd | BinOpKind::ScOr => Ok(right),
            BinOpKind::Eq => compared(CompareOpKind::Eq),
            BinOpKind::Ne => compared(CompareOpKind::Ne),
            BinOpKind::Lt => compared(CompareOpKind::Lt),
            BinOpKind::Lte => compared(CompareOpKind::Lte),
            BinOpKind::Gt => compared(CompareOpKind::Gt),
            BinOpKind::Gte => compared(CompareOpKind::Gte),
            BinOpKind::In => compared(CompareOpKind::In),
            BinOpKind::Add => operators::add(&self.budget, &left, &right),
            BinOpKind::Sub => operators::subtract(&left, &right),
            BinOpKind::Mul => operators::multiply(&self.budget, &left, &right),
            BinOpKind::Div => operators::divide(&left, &right),
            BinOpKind::FloorDiv => operators::floor_divide(&left, &right),
            BinOpKind::Rem => operators::remainder(&self.budget, &left, &right),
            BinOpKind::Pow => operators::power(&left, &right),
            BinOpKind::Concat => operators::concatenate(&self.budget, &left, &right),
        }
    }

    fn comparison(&mut self, comparison: &'t ast::Compare<'t>, scope: &Rc<Scope<'t>>) -> Outcome<Value> {
        let mut left = self.expression(&comparison.expr, scope)?;
        for operation in &comparison.ops {
            let right = self.expression(&operation.expr, scope)?;
            if !self.compare(operation.op, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn compare(&self, operator: CompareOpKind, left: &Value, right: &Value) -> Outcome<bool> {
        let budget = &self.budget;
        let ordered =
            |wanted: fn(std::cmp::Ordering) -> bool| Ok(order(budget, left, right)?.is_some_and(wanted));
        match operator {
            CompareOpKind::Eq => equal(budget, left, right),
            CompareOpKind::Ne => equal(budget, left, right).map(|same| !same),
            CompareOpKind::Lt => ordered(std::cmp::Ordering::is_lt),
            CompareOpKind::Lte => ordered(std::cmp::Ordering::is_le),
            CompareOpKind::Gt => ordered(std::cmp::Ordering::is_gt),
            CompareOpKind::Gte => ordered(std::cmp::Ordering::is_ge),
            CompareOpKind::In => contains(budget, right, left),
            CompareOpKind::NotIn => contains(budget, right, left).map(|found| !found),
        }
    }
}
