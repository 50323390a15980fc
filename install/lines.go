package install

import "strings"

// splitLines cuts text into its lines, each with its newline; the last may have none.
func splitLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, line)
	}
	return lines
}

// without returns text without the lines that drop names, and those lines.
func without(text string, drop func(line string) bool) (rest string, dropped []string) {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if drop(strings.TrimSuffix(line, "\n")) {
			dropped = append(dropped, strings.TrimSuffix(line, "\n"))
		} else {
			b.WriteString(line)
		}
	}
	return b.String(), dropped
}

// giveBack puts the lines that before has and after has not back into now, which
// was after until somebody changed it. Each comes behind the line that it stood
// behind, as far as that is still there. Lines that now has already are not doubled, and
// no line of it is changed.
func giveBack(now, before, after string) string {
	if now == after {
		return before
	}
	lines := splitLines(now)
	if n := len(lines); n > 0 && !strings.HasSuffix(lines[n-1], "\n") {
		lines[n-1] += "\n"
	}
	index := func(line string) int {
		for i := len(lines) - 1; i >= 0; i-- {
			if strings.TrimSuffix(lines[i], "\n") == line {
				return i
			}
		}
		return -1
	}
	old, kept := splitLines(before), splitLines(after)
	for i, line := range old {
		line = strings.TrimSuffix(line, "\n")
		if len(kept) > 0 && strings.TrimSuffix(kept[0], "\n") == line {
			kept = kept[1:]
			continue
		}
		if index(line) >= 0 {
			continue
		}
		at := len(lines)
		for j := i - 1; j >= 0; j-- {
			if prev := strings.TrimSuffix(old[j], "\n"); strings.TrimSpace(prev) != "" {
				if k := index(prev); k >= 0 {
					at = k + 1
					break
				}
			}
		}
		lines = append(lines[:at], append([]string{line + "\n"}, lines[at:]...)...)
	}
	return strings.Join(lines, "")
}

// gone returns the lines of before that after, which was made by taking lines out of it,
// does not have.
func gone(before, after string) []string {
	var all []string
	kept := splitLines(after)
	for _, line := range splitLines(before) {
		if len(kept) > 0 && strings.TrimSuffix(kept[0], "\n") == strings.TrimSuffix(line, "\n") {
			kept = kept[1:]
			continue
		}
		all = append(all, strings.TrimSuffix(line, "\n"))
	}
	return all
}
