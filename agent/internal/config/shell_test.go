package config

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// TestSameAsShell has the system's shell read every file that is accepted here, and
// compares what it has in the variables.
func TestSameAsShell(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	const script = `. "$1"; shift; for k; do eval "printf '%s=%s\n.\n' $k \"\$$k\""; done`
	for _, tt := range cases {
		if tt.bad != nil || strings.Contains(tt.text, "\r") {
			continue // a shell keeps carriage returns
		}
		t.Run(tt.name, func(t *testing.T) {
			p := &problems{file: "t.conf"}
			read := readShell([]byte(complete(tt.text)), p)
			if len(p.errs) > 0 {
				t.Fatal(p.errs)
			}
			last := make(map[string]string)
			for _, a := range read.out {
				if a.unread {
					t.Skip("a shell runs what has no effect here")
				}
				last[a.key] = a.value
			}
			file := filepath.Join(t.TempDir(), "t.conf")
			if err := os.WriteFile(file, []byte(complete(tt.text)), 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{"-euc", script, "sh", file}
			var want strings.Builder
			for _, k := range sorted(last) {
				args = append(args, k)
				want.WriteString(k + "=" + last[k] + "\n.\n")
			}
			cmd := exec.Command(sh, args...)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
			cmd.Dir = t.TempDir()
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			got, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, stderr.Bytes())
			}
			if diff := cmp.Diff(string(got), want.String()); diff != "" {
				t.Errorf("(-shell +here):\n%s", diff)
			}
			// It must have done nothing but set variables.
			if left, err := os.ReadDir(cmd.Dir); err != nil || len(left) > 0 || stderr.Len() > 0 {
				t.Errorf("the shell left %v, said %q, %v", left, stderr.Bytes(), err)
			}
		})
	}
}

func sorted(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// wholeFile evaluates a file that was accepted by another way: parsed at once
// instead of by logical lines, expanded by the library's own expansion.
func wholeFile(t *testing.T, text string) []assignment {
	t.Helper()
	f, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(text), "")
	if err != nil {
		t.Fatalf("accepted, and the parser says of the whole: %v", err)
	}
	vars := make(map[string]string)
	env := expand.FuncEnviron(func(name string) string { return vars[name] })
	var out []assignment
	set := func(line uint, name string, w *syntax.Word) {
		value := ""
		if w != nil {
			// The library's expansion leaves backslashes outside quotes alone.
			for i, part := range w.Parts {
				if lit, ok := part.(*syntax.Lit); ok && strings.Contains(lit.Value, `\`) {
					w.Parts[i] = &syntax.SglQuoted{Value: regexp.MustCompile(`(?s)\\(.)`).ReplaceAllString(lit.Value, "$1")}
				}
			}
			var err error
			if value, err = expand.Literal(&expand.Config{Env: env}, w); err != nil {
				t.Fatalf("accepted, and the library says of %s: %v", name, err)
			}
		}
		vars[name] = value
		out = append(out, assignment{line: int(line), key: name, value: value})
	}
	for _, st := range f.Stmts {
		call := st.Cmd.(*syntax.CallExpr)
		for _, a := range call.Assigns {
			set(a.Pos().Line(), a.Name.Value, a.Value)
		}
		if len(call.Args) == 0 {
			continue
		}
		for _, w := range call.Args[1:] {
			if lit, ok := w.Parts[0].(*syntax.Lit); ok {
				if name, value, ok := strings.Cut(lit.Value, "="); ok {
					lit.Value = value
					set(w.Pos().Line(), name, w)
				}
			}
		}
	}
	return out
}

func TestSameAsWholeFile(t *testing.T) {
	for _, tt := range cases {
		if tt.bad == nil {
			checkWholeFile(t, complete(tt.text))
		}
	}
}

func checkWholeFile(t *testing.T, src string) {
	t.Helper()
	p := &problems{file: "t.conf"}
	s := readShell([]byte(src), p)
	text, ok := s.clean([]byte(src))
	if len(p.errs) > 0 || !ok {
		t.Fatal(p.errs)
	}
	for i, a := range s.out {
		if a.unread {
			return // the library may refuse it, or evaluate it
		}
		s.out[i].extends = false
	}
	if diff := cmp.Diff(wholeFile(t, text), s.out, cmp.AllowUnexported(assignment{})); diff != "" {
		t.Errorf("%q (-whole +by lines):\n%s", src, diff)
	}
}

// TestHostileFiles are refused, with little memory and stack.
func TestHostileFiles(t *testing.T) {
	fill := func(s string, n int) string { return strings.Repeat(s, n/len(s)) }
	doubling := "A=xxxxxxxx\n" + strings.Repeat("A=$A$A\n", 40) + "BLOCK_LISTS=$A\n"
	many := "A=" + strings.Repeat("x", 60000) + "\n"
	for i := range 200 {
		many += "A" + string(rune('A'+i%26)) + "=$A\n"
	}
	many += "BLOCK_LISTS=$AA\n"
	for _, tt := range []struct{ name, text, want string }{
		{"larger than allowed", fill("A=1\n", maxFile+4), "t.conf: larger than 1048576 bytes: this is not a threatstop.conf"},
		{"doubling values", doubling, "t.conf:42: BLOCK_LISTS: $A has no plain value (line 41): write its value here"},
		{"many long values", many, "t.conf:202: BLOCK_LISTS: $AA has no plain value (line 184): write its value here"},
		{"a long line", "A=" + fill("x", maxFile/2), ""},
		{"subshells", fill("(", 60000), ""},
		{"substitutions", "A=" + fill("\"$(", 60000), ""},
		{"backquotes", "A=" + fill("`\\", 60001), ""},
		{"conditions", fill("if ", 60000), ""},
		{"signs", "A=$((" + fill("- ", 60000), ""},
		{"quotes that are never closed", fill("A='\n", maxFile/8) + "A='", ""},
		{"functions", fill("f()\n", maxFile), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, warnings, err := Parse("t.conf", strings.NewReader(tt.text))
			errs, _ := said(warnings, err)
			if len(errs) == 0 || len(errs) > maxProblems+1 {
				t.Fatalf("%d errors: %v", len(errs), errs)
			}
			if tt.want != "" && errs[0] != tt.want {
				t.Errorf("got  %s\nwant %s", errs[0], tt.want)
			}
		})
	}
}
