package cli

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"example.org/threatstopd/capture/capturetest"
)

// A command that only prints is ended by ^C, also while it waits for input that
// does not come.
func TestInterruptEndsPrinting(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A program that is started where interrupts are ignored (by nohup(1), or in the
	// background of a script) ignores them too; what is caught here is not inherited.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, os.Interrupt)
	defer signal.Stop(caught)
	cmd := exec.Command(program, "--read", "-")
	cmd.Env = append(os.Environ(), strictEnv+"="+t.TempDir())
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer late.Stop()
	// A header and no packet: it reads, and will go on reading.
	if _, err := capturetest.NewPcapWriter(stdin, 0, nil); err != nil {
		t.Fatal(err)
	}
	// The first signal may come before the program has begun to live; sent again
	// it meets the one that waits.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.Copy(io.Discard, stdout)
	}()
	for waiting := true; waiting; {
		select {
		case <-ended:
			waiting = false
		case <-time.After(50 * time.Millisecond):
			cmd.Process.Signal(os.Interrupt)
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		t.Fatalf("ended with %v", err)
	}
	if s, ok := exit.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGINT {
		t.Errorf("ended by %v, not by the interrupt", exit)
	}
}
