//! Goes through a syntax tree without evaluating it: which names it mentions, and what it uses that is not supported.

use minijinja::machinery::ast::{CallArg, Expr, Spanned, Stmt};

use super::budget::{Outcome, refuse};

/// Whether any of the statements mentions the variable `name`.
pub(super) fn mentions(body: &[Stmt<'_>], name: &str) -> bool {
    let mut is_mentioned = false;
    for statement in body {
        visit_statement(statement, &mut |node| {
            is_mentioned |= matches!(node, Node::Expression(Expr::Var(variable)) if variable.id == name);
        });
    }
    is_mentioned
}

/// Refuses statements that no conversation could get past.
///
/// # Errors
/// The first of them, with its line.
pub(super) fn check(template: &Stmt<'_>) -> Outcome<()> {
    let mut outcome = Ok(());
    visit_statement(template, &mut |node| {
        let Node::Statement(statement) = node else { return };
        let problem = match statement {
            Stmt::AutoEscape(_) => "`autoescape` is not supported",
            // transformers does not switch this extension on.
            Stmt::Do(_) => "unknown statement `do`",
            Stmt::Block(_) | Stmt::Import(_) | Stmt::FromImport(_) | Stmt::Extends(_) | Stmt::Include(_) => {
                "`block`, `extends`, `include` or `import` is not supported"
            }
            _ => return,
        };
        if outcome.is_ok() {
            outcome = refuse!("{problem}").map_err(|e| e.at(line_of(statement)));
        }
    });
    outcome
}

/// Line of a statement, from 1.
pub(super) fn line_of(statement: &Stmt<'_>) -> u32 {
    fn line<T>(node: &Spanned<T>) -> u32 {
        node.span().start_line.into()
    }
    match statement {
        Stmt::Template(node) => line(node),
        Stmt::EmitExpr(node) => line(node),
        Stmt::EmitRaw(node) => line(node),
        Stmt::ForLoop(node) => line(node),
        Stmt::IfCond(node) => line(node),
        Stmt::WithBlock(node) => line(node),
        Stmt::Set(node) => line(node),
        Stmt::SetBlock(node) => line(node),
        Stmt::AutoEscape(node) => line(node),
        Stmt::FilterBlock(node) => line(node),
        Stmt::Block(node) => line(node),
        Stmt::Import(node) => line(node),
        Stmt::FromImport(node) => line(node),
        Stmt::Extends(node) => line(node),
        Stmt::Include(node) => line(node),
        Stmt::Macro(node) => line(node),
        Stmt::CallBlock(node) => line(node),
        Stmt::Continue(node) => line(node),
        Stmt::Break(node) => line(node),
        Stmt::Do(node) => line(node),
    }
}

#[derive(Clone, Copy)]
enum Node<'n, 't> {
    Statement(&'n Stmt<'t>),
    Expression(&'n Expr<'t>),
}

fn visit_statement(statement: &Stmt<'_>, visit: &mut dyn FnMut(Node<'_, '_>)) {
    visit(Node::Statement(statement));
    let (bodies, expressions): (Vec<&[Stmt<'_>]>, Vec<&Expr<'_>>) = match statement {
        Stmt::Template(template) => (vec![&template.children], Vec::new()),
        Stmt::EmitExpr(emitted) => (Vec::new(), vec![&emitted.expr]),
        Stmt::ForLoop(node) => {
            let filter = node.filter_expr.iter();
            (
                vec![&node.body, &node.else_body],
                [&node.target, &node.iter].into_iter().chain(filter).collect(),
            )
        }
        Stmt::IfCond(node) => (vec![&node.true_body, &node.false_body], vec![&node.expr]),
        Stmt::WithBlock(node) => {
            (vec![&node.body], node.assignments.iter().flat_map(|(name, value)| [name, value]).collect())
        }
        Stmt::Set(node) => (Vec::new(), vec![&node.target, &node.expr]),
        Stmt::SetBlock(node) => (vec![&node.body], node.filter.iter().chain([&node.target]).collect()),
        Stmt::AutoEscape(node) => (vec![&node.body], vec![&node.enabled]),
        Stmt::FilterBlock(node) => (vec![&node.body], vec![&node.filter]),
        Stmt::Macro(node) => (vec![&node.body], node.defaults.iter().collect()),
        Stmt::CallBlock(node) => {
            visit_arguments(&node.call.args, visit);
            let defaults = node.macro_decl.defaults.iter();
            (vec![&node.macro_decl.body], defaults.chain([&node.call.expr]).collect())
        }
        Stmt::Do(node) => {
            visit_arguments(&node.call.args, visit);
            (Vec::new(), vec![&node.call.expr])
        }
        Stmt::Block(node) => (vec![&node.body], Vec::new()),
        Stmt::EmitRaw(_)
        | Stmt::Continue(_)
        | Stmt::Break(_)
        | Stmt::Import(_)
        | Stmt::FromImport(_)
        | Stmt::Extends(_)
        | Stmt::Include(_) => (Vec::new(), Vec::new()),
    };
    expressions.into_iter().for_each(|expression| visit_expression(expression, visit));
    bodies.into_iter().flatten().for_each(|statement| visit_statement(statement, visit));
}

fn visit_expression(expression: &Expr<'_>, visit: &mut dyn FnMut(Node<'_, '_>)) {
    visit(Node::Expression(expression));
    let mut inner: Vec<&Expr<'_>> = Vec::new();
    match expression {
        Expr::Var(_) | Expr::Const(_) => {}
        Expr::Slice(node) => {
            inner.push(&node.expr);
            inner.extend([&node.start, &node.stop, &node.step].into_iter().flatten());
        }
        Expr::UnaryOp(node) => inner.push(&node.expr),
        Expr::BinOp(node) => inner.extend([&node.left, &node.right]),
        Expr::Compare(node) => {
            inner.push(&node.expr);
            inner.extend(node.ops.iter().map(|operation| &operation.expr));
        }
        Expr::IfExpr(node) => {
            inner.extend([&node.test_expr, &node.true_expr]);
            inner.extend(&node.false_expr);
        }
        Expr::Filter(node) => {
            inner.extend(&node.expr);
            visit_arguments(&node.args, visit);
        }
        Expr::Test(node) => {
            inner.push(&node.expr);
            visit_arguments(&node.args, visit);
        }
        Expr::GetAttr(node) => inner.push(&node.expr),
        Expr::GetItem(node) => inner.extend([&node.expr, &node.subscript_expr]),
        Expr::Call(node) => {
            inner.push(&node.expr);
            visit_arguments(&node.args, visit);
        }
        Expr::List(node) => inner.extend(&node.items),
        Expr::Tuple(node) => inner.extend(&node.items),
        Expr::Map(node) => inner.extend(node.keys.iter().chain(&node.values)),
    }
    inner.into_iter().for_each(|expression| visit_expression(expression, visit));
}

fn visit_arguments(arguments: &[CallArg<'_>], visit: &mut dyn FnMut(Node<'_, '_>)) {
    for argument in arguments {
        match argument {
            CallArg::Pos(expression)
            | CallArg::Kwarg(_, expression)
            | CallArg::PosSplat(expression)
            | CallArg::KwargSplat(expression) => visit_expression(expression, visit),
        }
    }
}
