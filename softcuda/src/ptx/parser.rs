//! Tokens to the syntax tree. No recursion but for nested braces in initialisers, which is bounded.

use super::{
    Function, Init, Inst, Loc, Operand, Reg, Space, Stmt, Type, Unit, Var,
    lexer::{Lexer, Token, error},
};
use crate::fault::LoadError;

type Result<T> = std::result::Result<T, LoadError>;

/// Parses a PTX module.
///
/// # Errors
/// [`LoadError`] with the line of what is not PTX as NVRTC writes it.
pub fn parse(text: &str) -> Result<Unit<'_>> {
    let mut lexer = Lexer::new(text);
    let token = lexer.next()?;
    let mut p = Parser { line: lexer.line, lexer, token, loc: None };
    let mut unit = Unit::default();
    while p.token != Token::End {
        p.item(&mut unit)?;
    }
    Ok(unit)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token<'a>,
    /// The line of `token`.
    line: u32,
    loc: Option<Loc>,
}

/// How deep initialisers may nest.
const DEPTH: u32 = 8;

impl<'a> Parser<'a> {
    fn advance(&mut self) -> Result<Token<'a>> {
        let next = self.lexer.next()?;
        self.line = self.lexer.line;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn wrong<T>(&self, wanted: &str) -> Result<T> {
        let got = match self.token {
            Token::Word(w) => format!("{w:?}"),
            Token::Text(t) => format!("{t:?}"),
            Token::Punct(c) => format!("{c:?}"),
            Token::End => "the end".to_string(),
            Token::Int(_) | Token::F32(_) | Token::F64(_) => "a number".to_string(),
        };
        error(self.line, format!("expected {wanted}, found {got}"))
    }

    fn eat(&mut self, c: char) -> Result<bool> {
        let yes = self.token == Token::Punct(c);
        if yes {
            self.advance()?;
        }
        Ok(yes)
    }

    fn want(&mut self, c: char) -> Result<()> {
        if self.eat(c)? { Ok(()) } else { self.wrong(&format!("{c:?}")) }
    }

    fn word(&mut self, wanted: &str) -> Result<&'a str> {
        match self.token {
            Token::Word(w) => self.advance().map(|_| w),
            _ => self.wrong(wanted),
        }
    }

    fn int(&mut self, wanted: &str) -> Result<u64> {
        let negative = self.eat('-')?;
        match self.token {
            Token::Int(n) => self.advance().map(|_| if negative { n.wrapping_neg() } else { n }),
            _ => self.wrong(wanted),
        }
    }

    fn u32(&mut self, wanted: &str) -> Result<u32> {
        let line = self.line;
        let n = self.int(wanted)?;
        u32::try_from(n).or_else(|_| error(line, format!("{n} is too large for {wanted}")))
    }

    fn item(&mut self, unit: &mut Unit<'a>) -> Result<()> {
        let line = self.line;
        let word = self.word("a directive")?;
        match word {
            ".version" => {
                let Token::F64(bits) = self.advance()? else { return self.wrong("a version such as 9.0") };
                let tenths = (f64::from_bits(bits) * 10.0).round();
                if !(0.0..1000.0).contains(&tenths) {
                    return error(line, "not a PTX version");
                }
                unit.version = (tenths as u32 / 10, tenths as u32 % 10);
            }
            ".target" => {
                let target = self.word("a target such as sm_80")?;
                let digits: String =
                    target.trim_start_matches("sm_").chars().take_while(char::is_ascii_digit).collect();
                unit.target = match digits.parse() {
                    Ok(n) if target.starts_with("sm_") => n,
                    _ => return error(line, format!("unknown target {target:?}")),
                };
                while self.eat(',')? {
                    let option = self.word("a target option")?;
                    if option != "debug" {
                        return error(line, format!("target option {option:?} is not supported"));
                    }
                }
            }
            ".address_size" => {
                if self.int("64")? != 64 {
                    return error(line, "only .address_size 64 is supported");
                }
            }
            ".file" => {
                let number = self.u32("a file number")?;
                let Token::Text(name) = self.advance()? else { return error(line, ".file without a name") };
                unit.files.insert(number, name);
                while self.eat(',')? {
                    self.int("a number")?;
                }
            }
            ".section" => {
                self.word("a section")?;
                self.skip_braces()?;
            }
            ".pragma" => {
                self.advance()?;
                self.want(';')?;
            }
            ".alias" => return error(line, ".alias is not supported"),
            ".visible" | ".weak" | ".common" | ".extern" | ".entry" | ".func" | ".global" | ".const"
            | ".shared" => {
                let mut word = word;
                let mut is_extern = false;
                while matches!(word, ".visible" | ".weak" | ".common" | ".extern") {
                    is_extern |= word == ".extern";
                    word = self.word("a directive")?;
                }
                match word {
                    ".entry" | ".func" => {
                        let function = self.function(word == ".entry", line)?;
                        // A declaration may come before the definition.
                        unit.functions.retain(|f| f.name != function.name || f.body.is_some());
                        match unit.functions.iter().any(|f| f.name == function.name) {
                            true if function.body.is_none() => {}
                            true => return error(line, format!("{} is defined twice", function.name)),
                            false => unit.functions.push(function),
                        }
                    }
                    ".global" | ".const" | ".shared" => {
                        for mut var in self.vars(word)? {
                            var.is_extern = is_extern;
                            if unit.vars.iter().any(|v| v.name == var.name) {
                                return error(line, format!("{} is declared twice", var.name));
                            }
                            unit.vars.push(var);
                        }
                    }
                    _ => return error(line, format!("unknown directive {word:?}")),
                }
            }
            _ => return error(line, format!("unknown directive {word:?}")),
        }
        Ok(())
    }

    fn skip_braces(&mut self) -> Result<()> {
        self.want('{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.advance()? {
                Token::Punct('{') => depth += 1,
                Token::Punct('}') => depth -= 1,
                Token::End => return self.wrong("'}'"),
                _ => {}
            }
        }
        Ok(())
    }

    fn triple(&mut self) -> Result<[u32; 3]> {
        let mut at = [1; 3];
        for (i, n) in at.iter_mut().enumerate() {
            if i > 0 && !self.eat(',')? {
                break;
            }
            *n = self.u32("a number of threads")?;
        }
        Ok(at)
    }

    fn function(&mut self, entry: bool, line: u32) -> Result<Function<'a>> {
        let returns = if !entry && self.token == Token::Punct('(') { self.params()? } else { Vec::new() };
        let name = self.word("a function name")?;
        let params = if self.token == Token::Punct('(') { self.params()? } else { Vec::new() };
        let mut f = Function {
            name,
            entry,
            params,
            returns,
            body: None,
            max_block: None,
            required_block: None,
            min_blocks: None,
            line,
        };
        loop {
            match self.token {
                Token::Word(directive) => {
                    let at = self.line;
                    self.advance()?;
                    match directive {
                        ".maxntid" => f.max_block = Some(self.triple()?),
                        ".reqntid" => f.required_block = Some(self.triple()?),
                        ".minnctapersm" => f.min_blocks = Some(self.u32("a number of blocks")?),
                        ".maxnreg" => {
                            self.u32("a number of registers")?;
                        }
                        ".noreturn" => {}
                        ".pragma" => {
                            self.advance()?;
                            self.want(';')?;
                        }
                        _ => return error(at, format!("{directive} of a function is not supported")),
                    }
                }
                Token::Punct(';') => {
                    self.advance()?;
                    return Ok(f);
                }
                Token::Punct('{') => break,
                _ => return self.wrong("a function's body"),
            }
        }
        self.loc = None;
        f.body = Some(self.body()?);
        Ok(f)
    }

    fn params(&mut self) -> Result<Vec<Var<'a>>> {
        self.want('(')?;
        let mut params = Vec::new();
        while !self.eat(')')? {
            if !params.is_empty() {
                self.want(',')?;
            }
            let word = self.word("a parameter")?;
            if word != ".param" {
                return error(self.line, format!("parameters in {word} are not supported, only .param"));
            }
            params.push(self.var(Space::Param)?);
        }
        Ok(params)
    }

    /// Variables of a declaration, the space being read already.
    fn vars(&mut self, space: &str) -> Result<Vec<Var<'a>>> {
        let space = match space {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            _ => Space::Param,
        };
        let first = self.var(space)?;
        let mut vars = vec![first];
        while self.eat(',')? {
            let of = &vars[0];
            let mut next = Var { init: Vec::new(), size: u64::from(of.ty.bytes()), ..of.clone() };
            next.name = self.word("a variable")?;
            self.extent(&mut next)?;
            vars.push(next);
        }
        self.want(';')?;
        Ok(vars)
    }

    /// `.align n .type name[extent] = init`.
    fn var(&mut self, space: Space) -> Result<Var<'a>> {
        let line = self.line;
        let mut var = Var {
            name: "",
            space,
            ty: Type::B8,
            size: 0,
            align: 0,
            init: Vec::new(),
            is_extern: false,
            line,
        };
        let mut lanes = 1;
        let mut typed = false;
        loop {
            let word = self.word("a variable")?;
            match word {
                ".align" => {
                    var.align = self.u32("an alignment")?;
                    if !var.align.is_power_of_two() || var.align > 1 << 16 {
                        return error(line, format!("alignment {} is not a power of two", var.align));
                    }
                }
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                // Attributes of pointer parameters: `.ptr .global .align 16`.
                ".ptr" | ".global" | ".const" | ".shared" | ".local" if space == Space::Param => {}
                ".managed" => return error(line, "managed variables are not supported"),
                _ if word.starts_with('.') => match Type::named(&word[1..]) {
                    Some(ty) if ty != Type::Pred => (var.ty, typed) = (ty, true),
                    _ => {
                        let message = format!("variables of type {word} are not supported");
                        return Err(LoadError { line, message, unsupported: true });
                    }
                },
                _ => {
                    var.name = word;
                    break;
                }
            }
        }
        if !typed {
            return error(line, format!("{} has no type", var.name));
        }
        var.size = u64::from(var.ty.bytes()) * lanes;
        var.align = var.align.max(var.ty.bytes() * lanes as u32);
        self.extent(&mut var)?;
        if self.eat('=')? {
            self.init(&mut var.init, DEPTH)?;
            let most = var.size / u64::from(var.ty.bytes());
            if var.init.len() as u64 > most {
                return error(line, format!("{} has more initial values than elements", var.name));
            }
        }
        Ok(var)
    }

    fn extent(&mut self, var: &mut Var<'a>) -> Result<()> {
        while self.eat('[')? {
            if self.eat(']')? {
                var.size = 0;
                continue;
            }
            let n = self.int("an extent")?;
            var.size = match var.size.checked_mul(n) {
                Some(size) if size <= 1 << 40 => size,
                _ => return error(var.line, format!("{} is too large", var.name)),
            };
            self.want(']')?;
        }
        Ok(())
    }

    fn init(&mut self, to: &mut Vec<Init<'a>>, depth: u32) -> Result<()> {
        if self.eat('{')? {
            if depth == 0 {
                return error(self.line, "an initialiser nests too deep");
            }
            while !self.eat('}')? {
                self.init(to, depth - 1)?;
                if !self.eat(',')? {
                    self.want('}')?;
                    break;
                }
            }
            return Ok(());
        }
        let value = match self.token {
            Token::F32(bits) => self.advance().map(|_| Init::Bits(bits.into()))?,
            Token::F64(bits) => self.advance().map(|_| Init::Bits(bits))?,
            Token::Word("generic") => {
                self.advance()?;
                self.want('(')?;
                let name = self.word("a variable")?;
                self.want(')')?;
                Init::Address(name, self.offset()?)
            }
            Token::Word(name) => {
                self.advance()?;
                Init::Address(name, self.offset()?)
            }
            _ => Init::Bits(self.int("an initial value")?),
        };
        to.push(value);
        Ok(())
    }

    /// `+ n`, `+-n`, `- n` or nothing.
    fn offset(&mut self) -> Result<i64> {
        if self.eat('+')? {
            Ok(self.int("an offset")? as i64)
        } else if self.eat('-')? {
            Ok((self.int("an offset")? as i64).wrapping_neg())
        } else {
            Ok(0)
        }
    }

    fn body(&mut self) -> Result<Vec<Stmt<'a>>> {
        self.want('{')?;
        let mut body = Vec::new();
        let mut depth = 1;
        loop {
            let line = self.line;
            match self.token {
                Token::Punct('{') => {
                    self.advance()?;
                    depth += 1;
                    body.push(Stmt::Open);
                }
                Token::Punct('}') => {
                    self.advance()?;
                    depth -= 1;
                    if depth == 0 {
                        return Ok(body);
                    }
                    body.push(Stmt::Close);
                }
                Token::Punct(';') => {
                    self.advance()?;
                }
                Token::Punct('@') => {
                    self.advance()?;
                    let not = self.eat('!')?;
                    let pred = self.word("a predicate")?;
                    let op = self.word("an opcode")?;
                    body.push(Stmt::Inst(self.inst(Some((pred, not)), op, line)?));
                }
                Token::Word(word) => {
                    self.advance()?;
                    self.statement(word, line, &mut body)?;
                }
                _ => return self.wrong("a statement"),
            }
        }
    }

    fn statement(&mut self, word: &'a str, line: u32, body: &mut Vec<Stmt<'a>>) -> Result<()> {
        match word {
            ".reg" => {
                let ty = self.word("a type")?;
                let ty = match Type::named(&ty[1..]) {
                    Some(ty) if ty.bytes() <= 8 => ty,
                    _ => {
                        let message = format!("registers of type {ty} are not supported");
                        return Err(LoadError { line, message, unsupported: true });
                    }
                };
                loop {
                    let name = self.word("a register")?;
                    let count = if self.eat('<')? {
                        let n = self.u32("a number of registers")?;
                        self.want('>')?;
                        Some(n)
                    } else {
                        None
                    };
                    body.push(Stmt::Reg(Reg { name, count, ty }, line));
                    if !self.eat(',')? {
                        break;
                    }
                }
                self.want(';')
            }
            ".shared" | ".local" | ".param" | ".global" | ".const" => {
                body.extend(self.vars(word)?.into_iter().map(Stmt::Var));
                Ok(())
            }
            ".loc" => self.location(),
            ".pragma" => {
                self.advance()?;
                self.want(';')
            }
            _ if word.starts_with('.') => error(line, format!("unknown directive {word:?}")),
            _ if self.token == Token::Punct(':') => {
                self.advance()?;
                match self.token {
                    Token::Word(".branchtargets") => {
                        self.advance()?;
                        let mut targets = vec![self.word("a label")?];
                        while self.eat(',')? {
                            targets.push(self.word("a label")?);
                        }
                        self.want(';')?;
                        body.push(Stmt::Targets(word, targets, line));
                    }
                    Token::Word(".callprototype" | ".calltargets") => {
                        let message = "calls through function pointers are not supported".to_string();
                        return Err(LoadError { line, message, unsupported: true });
                    }
                    _ => body.push(Stmt::Label(word, line)),
                }
                Ok(())
            }
            _ => {
                body.push(Stmt::Inst(self.inst(None, word, line)?));
                Ok(())
            }
        }
    }

    fn location(&mut self) -> Result<()> {
        let file = self.u32("a file number")?;
        let line = self.u32("a line")?;
        self.u32("a column")?;
        let mut loc = Loc { file, line, inlined_at: None };
        while self.eat(',')? {
            match self.word("function_name or inlined_at")? {
                "function_name" => {
                    self.word("a label")?;
                    self.offset()?;
                }
                "inlined_at" => {
                    loc.inlined_at = Some((self.u32("a file number")?, self.u32("a line")?));
                    self.u32("a column")?;
                }
                word => return error(self.line, format!("unknown part of .loc: {word:?}")),
            }
        }
        self.loc = (line > 0).then_some(loc);
        Ok(())
    }

    fn inst(&mut self, guard: Option<(&'a str, bool)>, op: &'a str, line: u32) -> Result<Inst<'a>> {
        let mut inst = Inst { guard, op, operands: Vec::new(), line, loc: self.loc };
        if self.eat(';')? {
            return Ok(inst);
        }
        loop {
            inst.operands.push(self.operand()?);
            if !self.eat(',')? {
                self.want(';')?;
                return Ok(inst);
            }
        }
    }

    fn operand(&mut self) -> Result<Operand<'a>> {
        match self.token {
            Token::Punct('{') => {
                self.advance()?;
                Ok(Operand::Vector(self.scalars('}')?))
            }
            Token::Punct('(') => {
                self.advance()?;
                Ok(Operand::List(self.scalars(')')?))
            }
            Token::Punct('[') => {
                self.advance()?;
                let operand = match self.token {
                    Token::Word(name) => {
                        self.advance()?;
                        Operand::Address(Some(name), self.offset()?)
                    }
                    _ => Operand::Address(None, self.int("an address")? as i64),
                };
                if !self.eat(',')? {
                    self.want(']')?;
                    return Ok(operand);
                }
                // Coordinates in a texture, surface or tensor, whose instructions are refused by name.
                let mut parts = vec![operand];
                if self.eat('{')? {
                    parts.extend(self.scalars('}')?);
                    self.want(']')?;
                } else {
                    parts.extend(self.scalars(']')?);
                }
                Ok(Operand::List(parts))
            }
            _ => self.scalar(),
        }
    }

    fn scalars(&mut self, end: char) -> Result<Vec<Operand<'a>>> {
        let mut all = Vec::new();
        if self.eat(end)? {
            return Ok(all);
        }
        loop {
            all.push(self.scalar()?);
            if !self.eat(',')? {
                self.want(end)?;
                return Ok(all);
            }
        }
    }

    fn scalar(&mut self) -> Result<Operand<'a>> {
        match self.token {
            Token::Punct('!') => {
                self.advance()?;
                Ok(Operand::Not(self.word("a predicate")?))
            }
            Token::F32(bits) => self.advance().map(|_| Operand::F32(bits)),
            Token::F64(bits) => self.advance().map(|_| Operand::F64(bits)),
            Token::Word(name) => {
                self.advance()?;
                match self.token {
                    Token::Punct('|') => {
                        self.advance()?;
                        Ok(Operand::Pair(name, self.word("a predicate")?))
                    }
                    Token::Punct('+' | '-') => Ok(Operand::Offset(name, self.offset()?)),
                    _ => Ok(Operand::Name(name)),
                }
            }
            Token::Punct('-') => {
                self.advance()?;
                match self.advance()? {
                    Token::Int(n) => Ok(Operand::Int(n.wrapping_neg())),
                    Token::F64(bits) => Ok(Operand::F64(bits ^ 1 << 63)),
                    _ => self.wrong("a number after '-'"),
                }
            }
            _ => Ok(Operand::Int(self.int("an operand")?)),
        }
    }
}
