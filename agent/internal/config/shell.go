package config

import (
	"errors"
	"strings"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"
)

const (
	// maxFile bounds the file. Real ones have two kilobytes.
	maxFile = 1 << 20

	// maxAssignment bounds one logical line, maxBrackets what in it can open
	// a construct inside a construct. The grammar is read by recursive
	// descent, and a stack that runs out cannot be recovered from; no value
	// that is accepted comes near either.
	maxAssignment = 64 << 10
	maxBrackets   = 1000

	// maxKey bounds a name: no key of ours has a third of it.
	maxKey = 64

	// maxValue and maxExpanded bound what $KEY can make of a small file:
	// A=$B$B doubles with each line.
	maxValue    = 64 << 10
	maxExpanded = 4 << 20
)

// assignment is one KEY=value, evaluated.
type assignment struct {
	line       int
	key, value string
	extends    bool // the value holds $KEY itself: A="$A more"
}

// shell reads the assignments of a file. It does what a shell would do with
// them, and refuses all else.
type shell struct {
	*problems
	parser   *syntax.Parser
	vars     map[string]string
	failed   map[string]bool // keys whose assignment was refused: no second error for their use
	used     map[string]bool // keys that another one's value refers to
	same     map[string]bool // keys that the statement at hand assigns
	expanded int             // bytes that $KEY has put into values
	out      []assignment
}

// readShell returns the assignments in src in their order.
func readShell(src []byte, p *problems) *shell {
	s := &shell{
		problems: p,
		parser:   syntax.NewParser(syntax.Variant(syntax.LangPOSIX)),
		vars:     make(map[string]string),
		failed:   make(map[string]bool),
		used:     make(map[string]bool),
	}
	text, ok := s.clean(src)
	if !ok {
		s.unread = true
		return s
	}
	for line := 1; text != "" && !s.full(); {
		n, open := logicalLine(text)
		if open >= 0 {
			// A quote that is not closed takes the rest of the file
			// with it, and the next quote, meant to open, closes it:
			// say where it began, and go on with the line after it.
			at := line + strings.Count(text[:open], "\n")
			start := strings.LastIndexByte(text[:open], '\n') + 1
			key := lineKey(text[start:open])
			s.refuse(at, key, "the quote %c that opens here is not closed on this line: put another at the end of the value", text[open])
			n = len(text)
			if i := strings.IndexByte(text[open:], '\n'); i >= 0 {
				n = open + i + 1
			}
		} else {
			s.logical(text[:n], line)
		}
		line += strings.Count(text[:n], "\n")
		text = text[n:]
		s.unread = s.full()
	}
	return s
}

// clean undoes what editors of other systems do to a file, and refuses what is
// no text.
func (s *shell) clean(src []byte) (string, bool) {
	if len(src) > maxFile {
		s.errorf(0, "", "larger than %d bytes: this is not a threatstop.conf", maxFile)
		return "", false
	}
	text := strings.TrimPrefix(string(src), "\ufeff")
	if strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") {
		s.errorf(1, "", "UTF-16 text: save the file as UTF-8 or ASCII")
		return "", false
	}
	if i := strings.IndexByte(text, 0); i >= 0 {
		s.errorf(1+strings.Count(text[:i], "\n"), "", "a NUL byte: this is not a text file")
		return "", false
	}
	if strings.Contains(text, "\r") {
		var b strings.Builder
		for line := range strings.Lines(text) {
			if l, ok := strings.CutSuffix(line, "\n"); ok {
				b.WriteString(strings.TrimRight(l, "\r"))
				b.WriteByte('\n')
			} else {
				b.WriteString(strings.TrimRight(line, "\r"))
			}
		}
		text = b.String()
		if i := strings.IndexByte(text, '\r'); i >= 0 {
			s.errorf(1+strings.Count(text[:i], "\n"), "", "a carriage return within the line: end lines with a newline")
			return "", false
		}
	}
	// Comments of old files may be in any character set. The parser would
	// stop at them; a value with the replacement character is refused later.
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, string(utf8.RuneError))
	}
	return text, true
}

// logicalLine returns the length of the first logical line of text, its newline
// included: a newline that is quoted, or behind a backslash, does not end it.
// open is the offset of a quote that is not closed, or -1. A quote counts as
// not closed, too, if a line within it begins with the assignment of a known key:
// no value holds one, and the two are far apart when the parser notices.
//
// Only quotes, backslashes and comments need be understood here, since a text
// with anything deeper is refused whatever its end.
func logicalLine(text string) (n, open int) {
	var quote byte
	start := true // where a word, and so a comment, can begin
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote == 0 && c == '#' && start:
			j := strings.IndexByte(text[i:], '\n')
			if j < 0 {
				return len(text), -1
			}
			return i + j + 1, -1
		case quote == 0 && c == '\n':
			return i + 1, -1
		case quote == 0 && (c == '"' || c == '\''):
			quote, open = c, i
		case quote != '\'' && c == '\\':
			i++
			// A backslash and a newline are nothing: what stood
			// before decides whether a word can begin.
			if i < len(text) && text[i] == '\n' && quote == 0 {
				continue
			}
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0 && c == '\n':
			if find(lineKey(text[i+1:])) != nil {
				return 0, open
			}
		}
		start = strings.IndexByte(" \t;&|()<>", c) >= 0
	}
	if quote != 0 {
		return 0, open
	}
	return len(text), -1
}

// lineKey returns the name that text assigns at its beginning, or "" where it assigns
// none, or one too long for a key.
func lineKey(text string) string {
	text = strings.TrimLeft(text, " \t")
	if t, ok := strings.CutPrefix(text, "export"); ok && strings.TrimLeft(t, " \t") != t {
		text = strings.TrimLeft(t, " \t")
	}
	i := 0
	for i < len(text) && isNameByte(text[i]) {
		i++
	}
	if i > maxKey || i == len(text) || text[i] != '=' || !syntax.ValidName(text[:i]) {
		return ""
	}
	return text[:i]
}

func isNameByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

// refuse is errorf for a key whose value is thereby not known.
func (s *shell) refuse(line int, key, format string, args ...any) {
	if key != "" {
		s.failed[key] = true
	}
	s.errorf(line, key, format, args...)
}

// logical reads one logical line, which begins on the given line of the file.
func (s *shell) logical(text string, first int) {
	if b := strings.TrimLeft(text, " \t\n"); b == "" || b[0] == '#' {
		return
	}
	key := lineKey(text)
	brackets := 0
	for i := range len(text) {
		switch text[i] {
		case '(', '`', '{', '[':
			brackets++
		}
	}
	if len(text) > maxAssignment || brackets > maxBrackets {
		s.refuse(first, key, "one assignment of %d bytes with %d brackets: at most %d and %d", len(text), brackets, maxAssignment, maxBrackets)
		return
	}

	f, err := s.parser.Parse(strings.NewReader(text), "")
	if err != nil {
		line, what := first, err.Error()
		var pe syntax.ParseError
		var le syntax.LangError
		switch {
		case errors.As(err, &pe):
			line, what = first+int(pe.Pos.Line())-1, pe.Text
		case errors.As(err, &le):
			line, what = first+int(le.Pos.Line())-1, le.Feature+" are not for this file"
		}
		if secret(key) {
			what = "shell syntax without quotes" // the parser may repeat the value
		}
		s.refuse(line, key, "no assignment of a plain value (%s)%s", brief(what), quoted(key, text))
		return
	}
	for _, st := range f.Stmts {
		if !s.statement(st, text, first) {
			// What follows on the line is the rest of a value, not
			// another assignment: url=https://h/?a=1&b=2
			return
		}
	}
}

// statement evaluates one statement of a logical line and reports whether it was
// assignments and nothing else.
func (s *shell) statement(st *syntax.Stmt, text string, first int) bool {
	line := first + int(st.Pos().Line()) - 1
	rest := text[min(int(st.Pos().Offset()), len(text)):]
	key := lineKey(rest)
	bad := func(format string, args ...any) bool {
		s.refuse(line, key, format+"%s", append(args, quoted(key, rest))...)
		return false
	}
	switch {
	case st.Background:
		return bad("an unquoted & ends the value and runs it in the background")
	case len(st.Redirs) > 0:
		return bad("an unquoted %s is a redirection", st.Redirs[0].Op)
	case st.Negated, st.Coprocess, st.Disown:
		return bad("a command: only assignments KEY=value are read from this file")
	}
	var call *syntax.CallExpr
	switch cmd := st.Cmd.(type) {
	case *syntax.CallExpr:
		call = cmd
	case *syntax.BinaryCmd:
		return bad("an unquoted %s begins another command", cmd.Op)
	default:
		return bad("a shell construct: only assignments KEY=value are read from this file")
	}
	if len(call.Args) > 0 {
		word := call.Args[0]
		if len(call.Assigns) == 0 && word.Lit() == "export" {
			s.same = make(map[string]bool)
			return s.export(call.Args[1:], text, first)
		}
		src := source(text, word)
		if len(call.Args) > 1 && strings.HasPrefix(source(text, call.Args[1]), "=") || strings.HasPrefix(src, "=") {
			s.refuse(line, "", "%s: blanks around = make it a command: write KEY=value without them", brief(src))
			return false
		}
		if len(call.Assigns) == 0 {
			return bad("%s is a command: only assignments KEY=value are read from this file", brief(src))
		}
		last := call.Assigns[len(call.Assigns)-1]
		rest = text[min(int(last.Pos().Offset()), len(text)):]
		key = lineKey(rest)
		if secret(key) {
			src = "the text"
		}
		return bad("%s behind the blank is a command to a shell", brief(src))
	}
	s.same = make(map[string]bool)
	for _, a := range call.Assigns {
		if a.Append || a.Naked || a.Index != nil || a.Array != nil {
			return bad("an array or an addition: only assignments KEY=value are read from this file")
		}
		var parts []syntax.WordPart
		if a.Value != nil {
			parts = a.Value.Parts
		}
		at := first + int(a.Pos().Line()) - 1
		if !s.assign(a.Name.Value, parts, at, text[min(int(a.Pos().Offset()), len(text)):], text) {
			return false
		}
	}
	return true
}

// export evaluates the words behind "export": KEY=value as without it, and a
// mere KEY, which changes nothing here.
func (s *shell) export(words []*syntax.Word, text string, first int) bool {
	for _, w := range words {
		line := first + int(w.Pos().Line()) - 1
		rest := text[min(int(w.Pos().Offset()), len(text)):]
		if name := w.Lit(); syntax.ValidName(name) {
			continue
		}
		key := lineKey(rest)
		lit, ok := w.Parts[0].(*syntax.Lit)
		if !ok || key == "" || !strings.HasPrefix(lit.Value, key+"=") {
			s.refuse(line, key, "export %s: only export KEY=value is read from this file", brief(source(text, w)))
			return false
		}
		parts := append([]syntax.WordPart{}, w.Parts...)
		value := *lit
		value.Value = strings.TrimPrefix(lit.Value, key+"=")
		parts[0] = &value
		if !s.assign(key, parts, line, rest, text) {
			return false
		}
	}
	return true
}

// assign evaluates one KEY=value.
func (s *shell) assign(key string, parts []syntax.WordPart, line int, rest, text string) bool {
	if len(key) > maxKey {
		s.errorf(line, "", "a name of %d bytes, %s: at most %d", len(key), brief(key), maxKey)
		return false
	}
	e := &expansion{shell: s, key: key, text: text}
	e.parts(parts, false)
	switch {
	case e.fault != "":
		if !e.dollar {
			e.fault += quoted(key, rest)
		}
		s.refuse(line, key, "%s", e.fault)
		return false
	case e.unset != "":
		set := "set it there"
		if k := find(e.unset); k != nil && k.Default != "" {
			set = "put " + k.Name + "=" + k.Default + " there"
		}
		s.refuse(line, key, "$%s is not set above this line: %s, or write its value here", brief(e.unset), set)
		return true
	case e.spoilt:
		s.failed[key] = true
		return true
	}
	v := e.b.String()
	if len(v) > maxValue {
		s.refuse(line, key, "a value of %d bytes: at most %d", len(v), maxValue)
		return false
	}
	if s.expanded > maxExpanded {
		s.refuse(line, key, "the values of the keys that are used by others come to more than %d bytes", maxExpanded)
		return false
	}
	delete(s.failed, key)
	s.vars[key] = v
	s.same[key] = true
	s.out = append(s.out, assignment{line: line, key: key, value: v, extends: e.extends})
	return true
}

// expansion is the evaluation of one value. POSIX, Shell Command Language, 2.9.1: the value
// of an assignment undergoes neither field splitting nor pathname expansion, so
// that blanks from $KEY, * and ? stay as they are.
type expansion struct {
	*shell
	key, text string
	b         strings.Builder
	fault     string // what a shell would do and we do not
	dollar    bool   // the fault says all there is to say
	unset     string // a key that has no value
	spoilt    bool   // a key is used whose own assignment was refused
	extends   bool
}

func (e *expansion) parts(parts []syntax.WordPart, quoted bool) {
	for i, p := range parts {
		if e.fault != "" || e.b.Len() > maxValue {
			return
		}
		switch p := p.(type) {
		case *syntax.Lit:
			if !quoted && tilde(p.Value, i == 0) {
				e.fault = "an unquoted ~ is a home directory to a shell"
				return
			}
			if !quoted && p.Value == "$" && i+1 < len(parts) {
				// $'…' and $"…" mean one thing to this shell and
				// another to that.
				switch parts[i+1].(type) {
				case *syntax.SglQuoted, *syntax.DblQuoted:
					e.fault = "a $ before a quote is read differently by different shells"
					return
				}
			}
			e.literal(p.Value, quoted)
		case *syntax.SglQuoted:
			e.b.WriteString(p.Value)
		case *syntax.DblQuoted:
			e.parts(p.Parts, true)
		case *syntax.ParamExp:
			e.param(p)
		case *syntax.CmdSubst:
			e.plain(e.show(p) + " would run a command, and nothing is run from this file")
		case *syntax.ArithmExp:
			e.plain(e.show(p) + " is arithmetic")
		default:
			e.plain(e.show(p) + " is no plain value")
		}
	}
}

// literal resolves backslashes: outside quotes they quote any character, inside
// double quotes only these four (POSIX, Shell Command Language, 2.2). The parser has
// taken out those before a newline.
func (e *expansion) literal(v string, quoted bool) {
	for i := 0; i < len(v); i++ {
		if v[i] == '\\' && i+1 < len(v) && (!quoted || strings.IndexByte("$`\"\\", v[i+1]) >= 0) {
			i++
		}
		e.b.WriteByte(v[i])
	}
}

func (e *expansion) plain(fault string) {
	e.fault, e.dollar = fault+": write the value itself, in single quotes if it is to be taken as it stands", true
}

func (e *expansion) param(p *syntax.ParamExp) {
	if p.Param == nil || !syntax.ValidName(p.Param.Value) ||
		p.Flags != nil || p.Excl || p.Length || p.Width || p.IsSet || p.NestedParam != nil || p.Index != nil ||
		p.Modifiers != nil || p.Slice != nil || p.Repl != nil || p.Names != 0 || p.Exp != nil {
		e.plain(e.show(p) + " is more than $KEY or ${KEY} of a key set further up")
		return
	}
	name := p.Param.Value
	if e.same[name] {
		// A=1 B=$A: dash expands both before it sets either, ksh does not.
		e.fault, e.dollar = "$"+name+" is set on the same line, and shells differ in what that means: set it on a line above", true
		return
	}
	if e.failed[name] {
		e.spoilt = true
		return
	}
	v, ok := e.vars[name]
	if !ok {
		if e.unset == "" {
			e.unset = name
		}
		return
	}
	if name == e.key {
		e.extends = true
	}
	e.used[name] = true
	e.expanded += len(v)
	if e.expanded <= maxExpanded {
		e.b.WriteString(v)
	}
}

// show returns the text of a part for an error, unless it may hold a secret.
func (e *expansion) show(p syntax.Node) string {
	if secret(e.key) {
		return "a part of the value"
	}
	return brief(source(e.text, p))
}

// tilde says whether a shell would expand a ~ in this literal: at the beginning
// of a value, and behind an unquoted colon (POSIX, 2.6.1).
func tilde(v string, first bool) bool {
	return first && strings.HasPrefix(v, "~") || strings.Contains(v, ":~")
}

// source returns what stands in the file for a node.
func source(text string, n syntax.Node) string {
	from, to := int(n.Pos().Offset()), int(n.End().Offset())
	if from > len(text) || to > len(text) || from > to {
		return ""
	}
	return text[from:to]
}

// quoted returns the advice how to write a value that a shell would not take for
// one. rest is the text from KEY= on.
func quoted(key, rest string) string {
	if key == "" {
		return ""
	}
	value, _, _ := strings.Cut(strings.TrimLeft(rest, " \t"), "\n")
	value, ok := strings.CutPrefix(value, key+"=")
	value = strings.Trim(value, " \t;")
	if i := strings.Index(value, " #"); i >= 0 {
		value = strings.TrimRight(value[:i], " \t")
	}
	if !ok || value == "" || len(value) > 100 || strings.ContainsAny(value, "'\"\\") ||
		secret(key) && (value != hidden(value) || strings.Count(value, ":") > 1) {
		value = "value"
	}
	return ": put the value in single quotes, " + key + "='" + value + "'"
}

// brief returns text for an error: one line, not too long.
func brief(text string) string {
	if i := strings.IndexByte(text, '\n'); i >= 0 {
		text = text[:i] + "…"
	}
	const most = 80
	if len(text) > most {
		n := most
		for n > 0 && !utf8.RuneStart(text[n]) {
			n--
		}
		text = text[:n] + "…"
	}
	return text
}
