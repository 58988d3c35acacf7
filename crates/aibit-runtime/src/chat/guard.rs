//! Puts every instruction of a compiled template whose cost depends on its data under the budget.
//!
//! The engine counts instructions, but one instruction may double a string, compare two trees or copy a list. So
//! before such an instruction its operands pass filters that charge what it costs, or such a filter takes its
//! place. The compiler itself computes what is constant; [`check_tokens`] keeps that small.

use minijinja::Value;
use minijinja::machinery::{Instruction, Instructions, Token, tokenize};
use minijinja::syntax::SyntaxConfig;

/// Charges all that a value holds, and gives it back.
pub(super) const DEEP: &str = "#deep";
/// Charges a string's bytes or a list's length, and gives it back.
pub(super) const SHALLOW: &str = "#shallow";
/// Charges what a loop over the value takes, and gives it back.
pub(super) const LOOP: &str = "#loop";
/// Charges what is stored in a namespace, and gives it back.
pub(super) const STORED: &str = "#stored";
/// In the place of `+`.
pub(super) const ADD: &str = "#add";
/// In the place of `~`.
pub(super) const CONCATENATE: &str = "#concatenate";
/// In the place of `*`.
pub(super) const MULTIPLY: &str = "#multiply";
/// In the place of `a[b:c:d]`.
pub(super) const SLICE: &str = "#slice";

/// Tokens between two braces: the compiler recurses, and takes the square of this number of steps.
const MAX_TAG_TOKENS: usize = 4096;
/// The bit of a loop that may call itself.
const RECURSIVE: u8 = 2;

/// Refuses what would cost the compiler itself too much: long tags, and products of constants.
///
/// # Errors
/// What is refused, with its line; for wrong syntax nothing, since the parser says that better.
pub(super) fn check_tokens(source: &str, syntax: SyntaxConfig) -> Result<(), String> {
    let mut tokens = 0;
    let mut previous_fits = false;
    let mut after_product = false;
    for (token, span) in tokenize(source, false, syntax).map_while(Result::ok) {
        let line = span.start_line;
        tokens = match token {
            Token::VariableStart | Token::BlockStart => 0,
            _ => tokens + 1,
        };
        if tokens > MAX_TAG_TOKENS {
            return Err(format!("line {line}: a tag has more than {MAX_TAG_TOKENS} tokens"));
        }
        // A string or list that is repeated is no constant if names and numbers stand on both sides.
        let fits = matches!(token, Token::Ident(_) | Token::Int(_) | Token::Float(_));
        let is_product = matches!(token, Token::Mul);
        if (is_product && !previous_fits) || (after_product && !fits) {
            return Err(format!("line {line}: `*` is supported between names and numbers only"));
        }
        (previous_fits, after_product) = (fits, is_product);
    }
    Ok(())
}

/// The same program with its costly instructions guarded.
///
/// # Errors
/// What is not supported, with its line.
pub(super) fn guard<'a>(program: &Instructions<'a>) -> Result<Instructions<'a>, String> {
    let mut guarded = Instructions::new(program.name(), program.source());
    let mut new_positions = Vec::new();
    for position in 0.. {
        let Some(instruction) = program.get(position) else { break };
        let line = program.get_line(position).unwrap_or(0);
        let replaced =
            replace(instruction).map_err(|what| format!("line {line}: {what} is not supported"))?;
        let first = replaced.into_iter().map(|new| guarded.add_with_line(new, line as u16)).min();
        new_positions.push(first.expect("an instruction is replaced by at least one"));
    }
    let end = guarded.add(Instruction::Jump(0));
    new_positions.push(end);
    for position in 0..end {
        if let Some(
            Instruction::Iterate(target)
            | Instruction::Jump(target)
            | Instruction::JumpIfFalse(target)
            | Instruction::JumpIfFalseOrPop(target)
            | Instruction::JumpIfTrueOrPop(target)
            | Instruction::BuildMacro(_, target, _),
        ) = guarded.get_mut(position)
        {
            *target = new_positions[*target as usize];
        }
    }
    // Behind the last instruction, where the program ends, whatever led there.
    if let Some(Instruction::Jump(target)) = guarded.get_mut(end) {
        *target = end + 1;
    }
    Ok(guarded)
}

/// What takes the place of an instruction, or what is not supported.
fn replace<'a>(instruction: &Instruction<'a>) -> Result<Vec<Instruction<'a>>, String> {
    use Instruction as I;
    let charge = |name| I::ApplyFilter(name, Some(1), !0);
    let instead = |name, operands| vec![I::ApplyFilter(name, Some(operands), !0)];
    let same = instruction.clone();
    Ok(match instruction {
        // The formatter charges what is emitted, and sees no raw text.
        I::EmitRaw(text) => vec![I::LoadConst(Value::from(*text)), I::Emit],
        I::Add => instead(ADD, 2),
        I::StringConcat => instead(CONCATENATE, 2),
        I::Mul => instead(MULTIPLY, 2),
        I::Slice => instead(SLICE, 4),
        I::Eq | I::Ne | I::Gt | I::Gte | I::Lt | I::Lte | I::In | I::CompareAndPreserve(_) => {
            vec![charge(DEEP), I::Swap, charge(DEEP), I::Swap, same]
        }
        I::GetItem => vec![charge(DEEP), I::Swap, charge(SHALLOW), I::Swap, same],
        I::UnpackList(_) => vec![charge(LOOP), same],
        I::SetAttr(_) => vec![I::Swap, charge(STORED), I::Swap, same],
        I::BuildMap(_) | I::BuildList(_) | I::BuildTuple(_) => vec![same, charge(DEEP)],
        I::PushLoop(flags) if flags & RECURSIVE == 0 => vec![charge(LOOP), same],
        I::PushLoop(_) | I::FastRecurse => return Err("a recursive loop".into()),
        I::CallMethod("changed", _) => return Err("`changed`".into()),
        I::UnpackLists(_) | I::MergeKwargs(_) => return Err("`*` or `**` before an argument".into()),
        I::PushAutoEscape | I::PopAutoEscape => return Err("`autoescape`".into()),
        I::FastSuper | I::CallBlock(_) | I::LoadBlocks | I::Include(_) | I::ExportLocals => {
            return Err("`block`, `extends`, `include` or `import`".into());
        }
        // These take the same time for any data, or charge it where they are defined.
        I::StoreLocal(_)
        | I::Lookup(_)
        | I::GetAttr(_)
        | I::LoadConst(_)
        | I::BuildKwargs(_)
        | I::Sub
        | I::Div
        | I::IntDiv
        | I::Rem
        | I::Pow
        | I::Neg
        | I::Not
        | I::ApplyFilter(..)
        | I::PerformTest(..)
        | I::Emit
        | I::PushWith
        | I::Iterate(_)
        | I::PushDidNotIterate
        | I::PopFrame
        | I::PopLoopFrame
        | I::Jump(_)
        | I::JumpIfFalse(_)
        | I::JumpIfFalseOrPop(_)
        | I::JumpIfTrueOrPop(_)
        | I::BeginCapture(_)
        | I::EndCapture
        | I::CallFunction(..)
        | I::CallMethod(..)
        | I::CallObject(_)
        | I::DupTop
        | I::DiscardTop
        | I::Swap
        | I::BuildMacro(..)
        | I::Return
        | I::IsUndefined
        | I::Enclose(_)
        | I::GetClosure => vec![same],
    })
}
