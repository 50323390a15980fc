package daemon

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"example.org/threatstopd/pfioctl"
)

// carryEnv names the descriptor of the carry file to the program that is executed.
const carryEnv = "THREATSTOPD_STATE"

// OpenCarry returns the file in which the daemon leaves its state when it is executed again: the one that
// this process inherited, or a new one in dir, which has no name any more. It is called before the process
// confines itself.
func OpenCarry(dir string) (*os.File, error) {
	if text := os.Getenv(carryEnv); text != "" {
		os.Unsetenv(carryEnv)
		if fd, err := strconv.ParseUint(text, 10, 16); err == nil && fd > 2 {
			syscall.CloseOnExec(int(fd))
			return os.NewFile(uintptr(fd), "state"), nil
		}
	}
	f, err := os.CreateTemp(dir, "threatstopd.")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// PassCarry has the program that this process is about to execute inherit the file, and returns the
// environment for it.
func PassCarry(f *os.File) ([]string, error) {
	fd, err := syscall.Dup(int(f.Fd())) // without close-on-exec
	if err != nil {
		return nil, fmt.Errorf("state file: %w", err)
	}
	return append(os.Environ(), fmt.Sprintf("%s=%d", carryEnv, fd)), nil
}

// carried is what crosses beside the lists.
type carried struct {
	Started  time.Time
	LastGood time.Time
	Troubles map[string]*trouble
	Deaths   map[string][]time.Time
	Tables   [2]tableHistory
}

// save writes the state to the carry file. A state that cannot be written is lost, and nothing else.
func (d *Daemon) save() {
	if d.o.Carry == nil {
		return
	}
	c := carried{Started: d.started, LastGood: d.lastGood, Troubles: d.trouble.open, Deaths: d.deaths}
	for i := range d.tables {
		c.Tables[i] = d.tables[i].tableHistory
	}
	err := func() error {
		if err := d.o.Carry.Truncate(0); err != nil {
			return err
		}
		if _, err := d.o.Carry.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if err := json.NewEncoder(d.o.Carry).Encode(c); err != nil {
			return err
		}
		return d.sources.Save(d.o.Carry)
	}()
	if err != nil {
		d.o.Log.Warn().Err(err).Msg("state not kept over the restart")
		d.o.Carry.Truncate(0)
	}
}

// restore takes over the state that the process before left, if it left any.
func (d *Daemon) restore() {
	if d.o.Carry == nil {
		return
	}
	if _, err := d.o.Carry.Seek(0, io.SeekStart); err != nil {
		return
	}
	var c carried
	dec := json.NewDecoder(d.o.Carry)
	err := dec.Decode(&c)
	if err == io.EOF {
		return // a first start
	}
	if err == nil {
		// The decoder has read ahead.
		err = d.sources.Load(io.MultiReader(dec.Buffered(), d.o.Carry))
	}
	if err != nil {
		d.o.Log.Warn().Err(err).Msg("state not kept over the restart")
		return
	}
	d.started, d.lastGood = c.Started, c.LastGood
	if c.Troubles != nil {
		d.trouble.open = c.Troubles
		d.trouble.forget([]string{"socket "}, nil) // Missing has those of this process
	}
	if c.Deaths != nil {
		d.deaths = c.Deaths
	}
	for i := range c.Tables {
		d.tables[i].tableHistory = c.Tables[i]
	}
	d.o.Carry.Truncate(0)
}

// tableHistory is what happened to a table, over several polls.
type tableHistory struct {
	Change  pfioctl.Delta // what the last change was
	Updated time.Time     // when it came
	Written time.Time     // when the table file was last replaced
	Checked time.Time     // when the table was last compared with the policy
	Mended  int           // how often something else had changed it
	Drift   pfioctl.Delta // what the last repair was
	DriftAt time.Time     // when it was made
}
