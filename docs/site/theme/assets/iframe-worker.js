// A browser that opens a page from a file starts no worker. The search runs in a hidden frame
// instead, which is told and tells in the same words. Served by a host, a worker is used.
(() => {
  class FrameWorker extends EventTarget {
    constructor(address) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.title = "search";
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      inside.document.open();
      inside.document.write("<!doctype html><html lang='en'><title>search</title><body></body></html>");
      inside.document.close();
      inside.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      };
      const script = inside.document.createElement("script");
      this.ready = new Promise((resolve) => {
        script.onload = resolve;
      });
      script.src = String(address);
      inside.document.body.append(script);
    }

    postMessage(data) {
      this.ready.then(() => {
        this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
      });
    }

    terminate() {
      this.frame.remove();
    }
  }

  if (location.protocol === "file:") {
    window.IFrameWorker = FrameWorker; // the name by which the theme's search knows it
    window.Worker = FrameWorker;
  }
})();
