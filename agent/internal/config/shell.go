package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"
)

const (
	// maxFile bounds the file. Real ones have two kilobytes.
	maxFile = 1 << 20
	// maxValues bounds all values together: A=$B$B doubles with each line.
	maxValues = 2 * maxFile
	// maxLine bounds a logical line, and maxBrackets what in it can open a construct inside a
	// construct. The grammar is read by recursive descent, and an exhausted stack ends the process.
	maxLine     = 64 << 10
	maxBrackets = 1000
)

// assignment is one KEY=value, evaluated.
type assignment struct {
	line       int
	key, value string
	extends    bool // the value holds $KEY itself: A="$A more"
	unread     bool // see variable
}

// variable is what is known of a key behind its last assignment.
type variable struct {
	value string
	line  int
	// bad: the assignment was refused, which is reported once. unread: the value is none that this file
	// may have, which does not matter as long as no other key uses it.
	bad, unread bool
}

// shell reads the assignments of a file: what a shell would do with them, and nothing else.
type shell struct {
	*problems
	parser *syntax.Parser
	vars   map[string]variable
	used   map[string]bool // keys that another key's value refers to
	size   int             // of all values
	out    []assignment

	text string          // the logical line that is read
	line int             // its first line in the file
	same map[string]bool // keys that its present statement assigns
}

// readShell returns the assignments in src in their order. The grammar is that of OpenBSD's sh(1), a Korn
// shell.
func readShell(src []byte, p *problems) *shell {
	s := &shell{
		problems: p,
		parser:   syntax.NewParser(syntax.Variant(syntax.LangMirBSDKorn)),
		vars:     make(map[string]variable),
		used:     make(map[string]bool),
	}
	text, ok := s.clean(src)
	s.unread = !ok
	for s.line = 1; text != "" && !s.full(); {
		n, open := logicalLine(text)
		s.text = text[:n]
		if open < 0 {
			s.logical()
		} else {
			// A quote that is not closed takes the rest of the file with it, and the next quote, meant
			// to open, closes it: report where it began, and continue with the line after it.
			start := strings.LastIndexByte(text[:open], '\n') + 1
			s.refuse(s.line+strings.Count(text[:open], "\n"), lineKey(text[start:open]),
				fmt.Sprintf("the quote %c that opens here is not closed on this line: put another at the end of the value", text[open]))
		}
		s.line += strings.Count(s.text, "\n")
		text = text[n:]
		s.unread = s.full()
	}
	return s
}

// lineEnd is the end of a line as editors of other systems write it.
var lineEnd = regexp.MustCompile(`\r+(\n|$)`)

// clean undoes what editors of other systems do to a file, and refuses what is no text.
func (s *shell) clean(src []byte) (text string, ok bool) {
	text = lineEnd.ReplaceAllString(strings.TrimPrefix(string(src), "\ufeff"), "$1")
	at := func(sub string) int { return 1 + strings.Count(text[:strings.Index(text, sub)], "\n") }
	switch {
	case len(src) > maxFile:
		s.errorf(0, "", "larger than %d bytes: this is not a threatstop.conf", maxFile)
	case strings.HasPrefix(text, "\xff\xfe"), strings.HasPrefix(text, "\xfe\xff"):
		s.errorf(1, "", "UTF-16 text: save the file as UTF-8 or ASCII")
	case strings.Contains(text, "\x00"):
		s.errorf(at("\x00"), "", "a NUL byte: this is not a text file")
	case strings.Contains(text, "\r"):
		s.errorf(at("\r"), "", "a carriage return within the line: end lines with a newline")
	default:
		// Comments of old files may be in any character set, and the parser would stop at them. A value
		// with the replacement character is refused later.
		return strings.ToValidUTF8(text, string(utf8.RuneError)), true
	}
	return "", false
}

// logicalLine returns the length of the first logical line of text, its newline included: a newline that is
// quoted, or behind a backslash, does not end it. open is -1, or the offset of a quote that is not closed; n
// is then the end of the line that it is on. A quote counts as not closed, too, if a line within it begins
// with the assignment of a known key: no value holds one.
//
// Only quotes, backslashes and comments need be understood here, since a text with anything deeper is
// refused wherever it ends.
func logicalLine(text string) (n, open int) {
	lineOf := func(i int) int {
		if j := strings.IndexByte(text[i:], '\n'); j >= 0 {
			return i + j + 1
		}
		return len(text)
	}
	var quote byte
	start := true // where a word, and so a comment, can begin
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote == 0 && (c == '\n' || c == '#' && start):
			return lineOf(i), -1
		case quote == 0 && (c == '"' || c == '\''):
			quote, open = c, i
		case quote != '\'' && c == '\\':
			i++
			if quote == 0 && i < len(text) && text[i] == '\n' {
				continue // nothing: what is before it decides whether a word can begin
			}
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0 && c == '\n' && find(lineKey(text[i+1:])) != nil:
			return lineOf(open), open
		}
		start = strings.IndexByte(" \t;&|()<>", c) >= 0
	}
	if quote != 0 {
		return lineOf(open), open
	}
	return len(text), -1
}

var keyForm = regexp.MustCompile(`^[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=`)

// lineKey returns the key that text assigns at its beginning, or "".
func lineKey(text string) string {
	if m := keyForm.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// refuse is errorf for a key whose value is thereby not known.
func (s *shell) refuse(line int, key, text string) {
	if key != "" {
		s.vars[key] = variable{line: line, bad: true}
	}
	s.errorf(line, key, "%s", text)
}

// lineAt returns the line in the file of a position in the logical line.
func (s *shell) lineAt(p syntax.Pos) int { return s.line + int(p.Line()) - 1 }

// from returns the text from a node on.
func (s *shell) from(n syntax.Node) string { return s.text[min(int(n.Pos().Offset()), len(s.text)):] }

// source returns the text of a node.
func (s *shell) source(n syntax.Node) string {
	rest := s.from(n)
	return rest[:max(0, min(len(rest), int(n.End().Offset()-n.Pos().Offset())))]
}

// logical reads one logical line.
func (s *shell) logical() {
	if b := strings.TrimLeft(s.text, " \t\n"); b == "" || b[0] == '#' {
		return
	}
	key := lineKey(s.text)
	brackets := 0
	for _, b := range []string{"(", "`", "{", "["} {
		brackets += strings.Count(s.text, b)
	}
	if len(s.text) > maxLine || brackets > maxBrackets {
		s.refuse(s.line, key, fmt.Sprintf("one assignment of %d bytes with %d brackets: at most %d and %d", len(s.text), brackets, maxLine, maxBrackets))
		return
	}
	f, err := s.parser.Parse(strings.NewReader(s.text), "")
	if err != nil {
		line, what := s.line, err.Error()
		var pe syntax.ParseError
		var le syntax.LangError
		switch {
		case errors.As(err, &pe):
			line, what = s.lineAt(pe.Pos), pe.Text
		case errors.As(err, &le):
			line, what = s.lineAt(le.Pos), le.Feature+" are not for this file"
		}
		if secret(key) {
			what = "shell syntax without quotes" // the parser may repeat the value
		}
		s.refuse(line, key, "no assignment of a plain value ("+brief(what)+")"+advice(key, s.text))
		return
	}
	for _, st := range f.Stmts {
		assigns, what, at := s.statement(st)
		if what != "" {
			// What follows on the line is the rest of a value, not another assignment:
			// url=https://h/?a=1&b=2
			rest := s.from(at)
			key := lineKey(rest)
			s.refuse(s.lineAt(at.Pos()), key, what+advice(key, rest))
			return
		}
		s.same = make(map[string]bool)
		for _, a := range assigns {
			if a.Name != nil && !a.Naked { // export KEY changes nothing here
				s.assign(a)
			}
		}
	}
}

// statement returns the assignments of a statement that consists of nothing else, or what is wrong with it
// and where.
func (s *shell) statement(st *syntax.Stmt) (assigns []*syntax.Assign, what string, at syntax.Node) {
	var args []*syntax.Word
	switch cmd := st.Cmd.(type) {
	case *syntax.CallExpr:
		assigns, args = cmd.Assigns, cmd.Args
	case *syntax.DeclClause:
		assigns = cmd.Args
		if cmd.Variant.Value != "export" {
			return nil, cmd.Variant.Value + " is a command", st
		}
	case *syntax.BinaryCmd:
		return nil, fmt.Sprintf("an unquoted %s begins another command", cmd.Op), st
	case nil:
	default:
		return nil, "a shell construct", st
	}
	switch {
	case st.Background:
		return nil, "an unquoted & ends the value and runs it in the background", st
	case len(st.Redirs) > 0:
		return nil, fmt.Sprintf("an unquoted %s is a redirection", st.Redirs[0].Op), st
	case st.Negated, st.Coprocess, st.Disown:
		return nil, "a command", st
	case len(args) > 0 && strings.HasPrefix(s.source(args[0]), "="), len(args) > 1 && strings.HasPrefix(s.source(args[1]), "="):
		return nil, brief(s.source(args[0])) + ": blanks around = make it a command", args[0]
	case len(args) > 0 && len(assigns) == 0:
		return nil, brief(s.source(args[0])) + " is a command", st
	case len(args) > 0:
		last := assigns[len(assigns)-1]
		return nil, s.show(last.Name.Value, args[0]) + " behind the blank is a command to a shell", last
	}
	for _, a := range assigns {
		if a.Append || a.Index != nil || a.Array != nil || a.Name == nil || !syntax.ValidName(a.Name.Value) {
			return nil, brief(s.source(a)) + " is no assignment of one value", st
		}
	}
	return assigns, "", st
}

// assign evaluates one KEY=value.
func (s *shell) assign(a *syntax.Assign) {
	key, line := a.Name.Value, s.lineAt(a.Pos())
	e := &expansion{shell: s, key: key}
	var err error
	if a.Value != nil {
		err = e.parts(a.Value.Parts, false)
	}
	var quotable *quotableError
	switch k := find(key); {
	case err == nil:
		s.size += e.b.Len()
		s.vars[key] = variable{value: e.b.String(), line: line}
	case (k == nil || k.unused) && !assignsMore(a.Value):
		s.vars[key] = variable{line: line, unread: true}
	case errors.Is(err, errSpoilt):
		s.vars[key] = variable{line: line, bad: true}
		return
	case errors.As(err, &quotable):
		s.refuse(line, key, err.Error()+advice(key, s.from(a)))
		return
	default:
		s.refuse(line, key, err.Error())
		return
	}
	s.same[key] = true
	v := s.vars[key]
	s.out = append(s.out, assignment{line: line, key: key, value: v.value, extends: e.extends, unread: v.unread})
}

// assignsMore reports whether a shell that expands a word sets another key: ${A:=b}, $((A=1)).
func assignsMore(w *syntax.Word) (more bool) {
	syntax.Walk(w, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.CmdSubst:
			return false // in a process of its own
		case *syntax.ParamExp:
			more = more || n.Exp != nil && (n.Exp.Op == syntax.AssignUnset || n.Exp.Op == syntax.AssignUnsetOrNull)
		case *syntax.BinaryArithm:
			more = more || strings.HasSuffix(n.Op.String(), "=") && n.Op != syntax.Eql && n.Op != syntax.Neq && n.Op != syntax.Leq && n.Op != syntax.Geq
		case *syntax.UnaryArithm:
			more = more || n.Op == syntax.Inc || n.Op == syntax.Dec
		}
		return !more
	})
	return more
}

// expansion is the evaluation of one value. POSIX, Shell Command Language, 2.9.1: the value of an assignment
// undergoes neither field splitting nor pathname expansion, so that blanks from $KEY, * and ? stay as they are.
type expansion struct {
	*shell
	key     string
	b       strings.Builder
	extends bool
}

// quotableError is a fault that quotes around the value remove.
type quotableError struct{ error }

// errSpoilt: a key is used whose own assignment was refused, and reported.
var errSpoilt = errors.New("a key that is used was refused")

func (e *expansion) parts(parts []syntax.WordPart, quoted bool) error {
	for i, p := range parts {
		var err error
		dollar := false
		switch p := p.(type) {
		case *syntax.Lit:
			// A shell expands a ~ at the beginning of a value, and behind an unquoted colon (POSIX, 2.6.1).
			if !quoted && (i == 0 && strings.HasPrefix(p.Value, "~") || strings.Contains(p.Value, ":~")) {
				return &quotableError{errors.New("an unquoted ~ is a home directory to a shell")}
			}
			e.literal(p.Value, quoted)
		case *syntax.SglQuoted:
			e.b.WriteString(p.Value)
			dollar = p.Dollar
		case *syntax.DblQuoted:
			err = e.parts(p.Parts, true)
			dollar = p.Dollar
		case *syntax.ParamExp:
			err = e.param(p)
		case *syntax.CmdSubst:
			err = e.notPlain(p, "would run a command, and nothing is run from this file")
		default:
			err = e.notPlain(p, "is no plain value")
		}
		if dollar {
			err = &quotableError{errors.New("a $ before a quote is read differently by different shells")}
		}
		if err == nil && e.size+e.b.Len() > maxValues {
			err = fmt.Errorf("the values of all keys come to more than %d bytes", maxValues)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// literal resolves backslashes: outside quotes they quote any character, inside double quotes only these four
// (POSIX, Shell Command Language, 2.2). The parser has taken out those before a newline.
func (e *expansion) literal(v string, quoted bool) {
	for i := 0; i < len(v); i++ {
		if v[i] == '\\' && i+1 < len(v) && (!quoted || strings.IndexByte("$`\"\\", v[i+1]) >= 0) {
			i++
		}
		e.b.WriteByte(v[i])
	}
}

func (e *expansion) notPlain(p syntax.Node, what string) error {
	return fmt.Errorf("%s %s: write the value itself, in single quotes if it is meant literally", e.show(e.key, p), what)
}

// param appends the value of $KEY or ${KEY}.
func (e *expansion) param(p *syntax.ParamExp) error {
	name := ""
	if p.Param != nil {
		name = p.Param.Value
	}
	if src := e.source(p); !syntax.ValidName(name) || src != "$"+name && src != "${"+name+"}" {
		return e.notPlain(p, "is more than $KEY or ${KEY} of a key set further up")
	}
	v, set := e.vars[name]
	switch {
	case e.same[name]:
		// A=1 B=$A: dash expands both before it sets either, ksh does not.
		return fmt.Errorf("$%s is set on the same line, and shells differ in what that means: set it on a line above", brief(name))
	case v.bad:
		return errSpoilt
	case v.unread:
		return fmt.Errorf("$%s has no plain value (line %d): write its value here", brief(name), v.line)
	case !set:
		there := "set it there"
		if k := find(name); k != nil && k.Default != "" {
			there = "put " + name + "=" + strings.ReplaceAll(k.Default, "$OUT_DIR", find("OUT_DIR").Default) + " there"
		}
		return fmt.Errorf("$%s is not set above this line: %s, or write its value here", brief(name), there)
	}
	e.extends = e.extends || name == e.key
	e.used[name] = true
	e.b.WriteString(v.value)
	return nil
}

// show returns the text of a part of a key's value for an error, unless it may hold a secret.
func (s *shell) show(key string, p syntax.Node) string {
	if secret(key) {
		return "a part of the value"
	}
	return brief(s.source(p))
}

// advice completes the error of an assignment that a shell would read as something else: it returns how to
// write the value, as far as that is known to be accepted and holds no secret. rest is the text from KEY= on.
func advice(key, rest string) string {
	if key == "" {
		return ": only assignments KEY=value are read from this file"
	}
	value, _, _ := strings.Cut(strings.TrimLeft(rest, " \t"), "\n")
	_, value, _ = strings.Cut(value, key+"=")
	value, _, _ = strings.Cut(value, " #")
	value = strings.Trim(value, " \t;")
	k := find(key)
	switch {
	case value == "", len(value) > 100, strings.ContainsAny(value, "'\"\\"), secret(key) && (value != hidden(value) || strings.Count(value, ":") > 1):
		return ": put the value in single quotes"
	case k != nil && (unprintable(value, k.list) != nil || k.try(value) != nil):
		return "; allowed: " + k.Allowed
	}
	return ": put the value in single quotes, " + key + "='" + value + "'"
}

// brief returns text for an error: one line, not too long.
func brief(text string) string {
	const most = 80
	short, _, _ := strings.Cut(text, "\n")
	if len(short) > most {
		short = strings.ToValidUTF8(short[:most], "")
	}
	if short != text {
		short += "…"
	}
	return short
}
